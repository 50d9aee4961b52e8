"""`deepseek components`: lists the components of runs, with their parameters. Needs no mesh."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import InvalidArgument, MeshError
from deepseek.cli.completion import COMPONENT
from deepseek.cli.output import AsJson, bold, console, error_console, print_json, print_table
from deepseek.components import REGISTRIES, Components

if TYPE_CHECKING:
    from deepseek.descriptions import Description, Parameter


def components(
    kind: Annotated[
        str,
        typer.Argument(
            help=f"Kind of component: {', '.join(REGISTRIES)}.", show_default=False, autocompletion=COMPONENT
        ),
    ] = "",
    name: Annotated[
        str, typer.Argument(help="Name of a component.", show_default=False, autocompletion=COMPONENT)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the components that a run spec can name, with their parameters and defaults.

    The list includes the components of installed packages. It shows the environment of this command, which may differ
    from that of the trainer.
    """
    if not kind:
        names = {registry.kind: registry.names() for registry in REGISTRIES.values()}
        if as_json:
            print_json(names)
        else:
            print_table(["kind", "names"], [(one, ", ".join(known)) for one, known in names.items()])
            console.print("\nshow one kind with", bold("deepseek components KIND"), highlight=False)
        return
    registry = _registry(kind)
    if name:
        _show(_describe(registry, name), as_json)
        return
    with error_console.status("importing the components"):
        described = [_described(registry, one) for one in registry.names()]
    if as_json:
        print_json(described)
        return
    rows = [(one["name"], _brief(one["parameters"]), one.get("error") or one["summary"]) for one in described]
    print_table([registry.kind, "parameters", ""], rows)
    console.print("\nexplain one with", bold(f"deepseek components {registry.kind} NAME"), highlight=False)


def _registry(kind: str) -> Components:
    registries = {name: one for one in REGISTRIES.values() for name in (one.kind, one.group.partition(".")[2])}
    if kind not in registries:
        message = f"unknown kind of component {kind[:80]!r}; known: {', '.join(REGISTRIES)}"
        raise InvalidArgument("UNKNOWN_KIND", message, field="kind")
    return registries[kind]


def _describe(registry: Components, name: str) -> "Description":
    from deepseek.descriptions import describe

    return describe(registry, name)


def _described(registry: Components, name: str) -> dict[str, Any]:
    """Returns a component for the list of its kind. If the component cannot be imported, `error` is the reason."""
    try:
        found = _describe(registry, name)
    except MeshError as error:
        return {"name": name, "summary": "", "parameters": [], "error": error.message}
    return {"name": name, "summary": found.summary, "parameters": [asdict(one) for one in found.parameters]}


def _show(found: "Description", as_json: bool) -> None:
    if as_json:
        print_json(asdict(found))
        return
    console.print(found.summary, highlight=False)
    if found.details:
        console.print(f"\n{found.details}", highlight=False)
    if found.parameters:
        console.print()
        rows = [(one.name, one.type, _default(one), one.description) for one in found.parameters]
        print_table(["parameter", "type", "default", ""], rows)


def _brief(parameters: list[dict[str, Any]]) -> str:
    return ", ".join(one["name"] if one["required"] else f"{one['name']}={one['default']!r}" for one in parameters)


def _default(parameter: "Parameter") -> str:
    return "required" if parameter.required else repr(parameter.default)
