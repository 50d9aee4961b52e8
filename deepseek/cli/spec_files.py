"""Reads specs that users write: JSON, TOML or YAML files."""

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import InvalidArgument
from common.text_files import NotUtf8, read_text

SUFFIXES = (".json", ".toml", ".yaml", ".yml")

_EXPONENT = re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+")
"""Numbers such as 1e-4, which YAML 1.1 reads as texts."""


def read_spec(path: Path) -> dict[str, Any]:
    """Reads a spec from a JSON, TOML or YAML file.

    Raises:
        InvalidArgument: BAD_SPEC_FILE if the file cannot be read, or does not contain an object.
    """
    form, parse = _FORMS.get(path.suffix, _FORMS[".json"])
    try:
        document = parse(read_text(path))
    except NotUtf8 as error:
        raise InvalidArgument("BAD_SPEC_FILE", f"{path} {error}", field="spec") from error
    except (OSError, ValueError, RecursionError) as error:
        message = f"{path} cannot be read as {form}: {error}"
        raise InvalidArgument("BAD_SPEC_FILE", message, field="spec") from error
    if not isinstance(document, dict):
        message = f"{path} does not contain a {form} object; write the fields of the spec as one object"
        raise InvalidArgument("BAD_SPEC_FILE", message, field="spec")
    return document


def _parse_yaml(text: str) -> Any:
    import yaml  # type: ignore[import-untyped]  # imported here, because most commands read no YAML

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Reads numbers with an exponent and no point as numbers."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


_FORMS: dict[str, tuple[str, Callable[[str], Any]]] = {
    ".json": ("JSON", json.loads),
    ".toml": ("TOML", tomllib.loads),
    ".yaml": ("YAML", _parse_yaml),
    ".yml": ("YAML", _parse_yaml),
}
