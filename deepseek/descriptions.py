"""Describes components for people: a summary, and each parameter with its type, default and meaning.

The descriptions come from signatures and docstrings in Google style, so they always match the code. A component is
imported when it is described.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from deepseek.components import Components

_ENTRY = re.compile(r"(\w+): (.*)")
_MODULES = re.compile(r"\b(typing|collections\.abc)\.")
_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields|Warns):")


@dataclass(frozen=True)
class Parameter:
    """A parameter that users can set.

    Attributes:
        name: Name of the keyword argument.
        type: Type, as in the source code; empty if the source code states none.
        required: Whether the parameter has no default.
        default: Default value, as its source code if it is not a JSON value; None if the parameter is required.
        description: Meaning, from the docstring; may be empty.
    """

    name: str
    type: str
    required: bool
    default: Any = None
    description: str = ""


@dataclass(frozen=True)
class Description:
    """A component as people see it.

    Attributes:
        kind: Kind of the component, e.g. `model`.
        name: Name in the registry.
        summary: First sentence or paragraph of the docstring; may be empty.
        details: Other paragraphs of the docstring, without its sections.
        parameters: Parameters that users can set, in the order of the signature.
    """

    kind: str
    name: str
    summary: str = ""
    details: str = ""
    parameters: tuple[Parameter, ...] = field(default=())


def describe(registry: Components, name: str) -> Description:
    """Imports a component and describes it.

    Raises:
        InvalidArgument: UNKNOWN_COMPONENT at `name`.
        FailedPrecondition: COMPONENT_NOT_IMPORTABLE if its package is broken or lacks a dependency.
    """
    part = registry.get(name, field="name")
    text, meanings = _split(inspect.getdoc(part) or "")
    if inspect.isclass(part):
        meanings = _split(inspect.getdoc(part.__init__) or "")[1] | meanings
    summary, _, details = text.partition("\n\n")
    paragraphs = [_one_line(paragraph) for paragraph in details.split("\n\n")]
    parameters = tuple(
        Parameter(
            parameter.name,
            _type(parameter),
            parameter.default is parameter.empty,
            None if parameter.default is parameter.empty else _plain(parameter.default),
            meanings.get(parameter.name, ""),
        )
        for parameter in _parameters(part)
        if parameter.name not in registry.given
    )
    return Description(registry.kind, name, _one_line(summary), "\n\n".join(paragraphs), parameters)


def _parameters(part: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(part).parameters.values()
    except (TypeError, ValueError):  # some callables written in C have no signature
        return []
    return [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]


def _plain(default: Any) -> Any:
    return default if isinstance(default, bool | int | float | str | tuple | list | None) else repr(default)


def _type(parameter: inspect.Parameter) -> str:
    if parameter.annotation is parameter.empty:
        return ""
    annotation = parameter.annotation
    shown = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return _MODULES.sub("", shown)


def _split(docstring: str) -> tuple[str, dict[str, str]]:
    """Returns the text before the first section, and the meaning of each argument in the section Args."""
    text: list[str] = []
    meanings: dict[str, str] = {}
    section = last = ""
    for line in docstring.splitlines():
        if heading := _SECTION.fullmatch(line):
            section = heading[1]
        elif not section:
            text.append(line)
        elif section == "Args" and line.startswith("    "):
            entry = None if line.startswith("     ") else _ENTRY.match(line.strip())
            if entry:
                last, meanings[entry[1]] = entry[1], entry[2]
            elif last:
                meanings[last] = f"{meanings[last]} {line.strip()}"
        elif line and not line.startswith(" "):
            section = "other"  # e.g. a doctest
    return "\n".join(text).split("\n>>>")[0].strip(), meanings


def _one_line(text: str) -> str:
    return " ".join(text.split())
