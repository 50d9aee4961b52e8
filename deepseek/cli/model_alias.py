"""`deepseek model alias`: shows, sets and deletes the aliases of a model."""

from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from common.errors import InvalidArgument, NotFound
from deepseek.cli.completion import ALIAS_OF_MODEL, MODEL, MODEL_ALIAS, MODEL_VERSION
from deepseek.cli.output import AsJson, console, print_json, print_table
from deepseek.client import connect
from deepseek.client.names import alias_name, series_id, short_name, version_name
from protos.registry.v1 import registry_pb2


class _SetByDefault(TyperGroup):
    """Runs `set` if the first argument is not a command, so that `alias MODEL ALIAS VERSION` still works."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if known else ["set", *args])


app = typer.Typer(help="Show, set and delete the aliases of a model.", cls=_SetByDefault, no_args_is_help=True)

Model = Annotated[str, typer.Argument(help="Name of the model, e.g. easy-vqa.", autocompletion=MODEL)]
Alias = Annotated[str, typer.Argument(help="Name of the alias, e.g. champion.", autocompletion=ALIAS_OF_MODEL)]
_NONE = 0


@app.command("set")
def set_alias(
    model: Model,
    alias: Alias,
    version: Annotated[
        str,
        typer.Argument(
            help="Version that the alias will point at, e.g. 3 or easy-vqa:3.", autocompletion=MODEL_VERSION
        ),
    ],
    expected: Annotated[
        int | None,
        typer.Option(
            help="Number of the version that the alias must point at now; 0 if it must not exist. By default, it may "
            "point anywhere.",
            min=_NONE,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias at a version. If somebody else moves the alias at the same moment, the command fails."""
    model = series_id(model, "models", field="MODEL")
    alias_name(f"{model}@{alias}", "models", field="ALIAS")
    wanted = version if not version.isdigit() and version != "latest" else f"{model}:{version}"
    target = version_name(wanted, "models", field="VERSION")
    if target.split("/")[1] != model:
        raise InvalidArgument("BAD_NAME", f"{version!r} is not a version of {model}", field="VERSION")
    with connect() as mesh:
        target = mesh.models.version(target).name
        if expected is None:
            before = _current(mesh.models, model, alias)
        else:
            before = f"models/{model}/versions/{expected}" if expected else ""
        moved = mesh.models.set_alias(model, alias, target, expected=before)
    if as_json:
        print_json(_document(moved) | {"previous_version": before or None})
    else:
        was = f" (was {short_name(before)})" if before and before != moved.version else ""
        console.print(f"{short_name(moved.name)} -> {short_name(moved.version)}{was}", highlight=False)


@app.command("get")
def get_alias(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL[@ALIAS]", help="A model, or one of its aliases.", autocompletion=MODEL_ALIAS),
    ],
    as_json: AsJson = False,
) -> None:
    """Show the versions at which the aliases of a model point, or that of one alias."""
    is_alias = "@" in model or "/aliases/" in model
    name = (alias_name if is_alias else series_id)(model, "models", field="MODEL")
    with connect() as mesh:
        found = [mesh.models.alias(name)] if is_alias else list(mesh.models.aliases(name))
    if as_json:
        print_json([_document(one) for one in found])
    elif found:
        print_table(
            ["alias", "version", "last move (UTC)"],
            [
                (short_name(one.name), short_name(one.version), f"{one.update_time.ToDatetime():%Y-%m-%d %H:%M}")
                for one in found
            ],
        )
    else:
        console.print(f"{model} has no aliases; set one with `deepseek model alias set`", highlight=False)


@app.command("delete")
def delete_alias(
    alias: Annotated[
        str,
        typer.Argument(metavar="MODEL@ALIAS", help="The alias, e.g. easy-vqa@champion.", autocompletion=MODEL_ALIAS),
    ],
    as_json: AsJson = False,
) -> None:
    """Delete an alias and the history of its moves. The version at which it points is kept."""
    name = alias_name(alias, "models", field="MODEL@ALIAS")
    with connect() as mesh:
        mesh.models.delete_alias(name)
    if as_json:
        print_json({"alias": name, "deleted": True})
    else:
        console.print(f"deleted {short_name(name)}", highlight=False)


def _current(models: Any, model: str, alias: str) -> str:
    """Returns the version at which an alias points; empty if there is no such alias."""
    try:
        return str(models.alias(f"models/{model}/aliases/{alias}").version)
    except NotFound as error:
        if error.reason != "ALIAS_NOT_FOUND":
            raise
        return ""


def _document(alias: registry_pb2.Alias) -> dict[str, Any]:
    return {"alias": alias.name, "version": alias.version, "update_time": alias.update_time.ToJsonString()}
