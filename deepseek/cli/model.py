"""`deepseek model`: list models, see where one comes from, download, move aliases, load for serving."""

from pathlib import Path
from typing import Annotated

import typer

from common.errors import MeshError
from deepseek.cli.output import AsJson, console, error_console, make_folder, print_json, print_table, progress_bar
from deepseek.cli.precision import ratios_text
from deepseek.client import Mesh, connect

app = typer.Typer(
    help="List models, their versions and lineage; download; move aliases; load and unload.", no_args_is_help=True
)
Model = Annotated[str, typer.Argument(help="Id of the model, e.g. easy-vqa.")]


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models with their versions and figures, and which file inference serves on its host and why."""
    with connect() as mesh:
        versions = [v for model in mesh.models.list() for v in mesh.models.versions(model.name.partition("/")[2])]
        served, problem = _served(mesh)
    if as_json:
        rows = [(v.name, {m.name: m.value for m in v.metrics}, served.get(v.name)) for v in versions]
        print_json([{"version": name, "metrics": metrics, "served": reason} for name, metrics, reason in rows])
        return
    figures = [
        (v.name, ", ".join(f"{m.name} {m.value:.4f}" for m in v.metrics), ", ".join(v.sources)) for v in versions
    ]
    print_table(["version", "figures", "made from"], figures)
    if problem:
        error_console.print(f"could not find out which versions are served: {problem}", markup=False, soft_wrap=True)
    elif served:
        console.print()
        print_table(["served", "file"], served.items())


def _served(mesh: Mesh) -> tuple[dict[str, str], str]:
    """For each served version, which file is served and why; or the error if inference could not be asked."""
    try:
        loaded = list(mesh.inference.index(ready=True))
    except MeshError as error:
        return {}, error.message
    return {f"models/{one.name}/versions/{one.version}": one.reason for one in loaded}, ""


@app.command()
def lineage(version: Annotated[str, typer.Argument(help="e.g. models/easy-vqa/versions/1")]) -> None:
    """Show what a version was made from, what was made from it, and the precision that it was trained in."""
    with connect() as mesh:
        print_table(["source", "target"], [(edge.source, edge.target) for edge in mesh.models.lineage(version)])
        found = mesh.models.manifest(mesh.models.version(version)).precision if version.startswith("models/") else None
    if found:
        text = f"trained in {found.precision} ({found.reason}){ratios_text(found.ratios)} ({found.instruction_set})"
        console.print(text, highlight=False, soft_wrap=True)


@app.command()
def download(
    version: Annotated[str, typer.Argument(help="e.g. models/easy-vqa/versions/1, or an alias.")],
    output: Annotated[Path, typer.Option(help="Folder for the files; made if it is missing.")],
) -> None:
    """Copy the files of a version to a folder, each verified, with the manifest that says how to feed them."""
    make_folder(output, "--output")
    with connect() as mesh, progress_bar() as bar:
        task = bar.add_task("downloading", total=None, note="bytes")
        manifest = mesh.models.download(
            version, output, on_bytes=lambda so_far, total: bar.update(task, completed=so_far, total=total)
        )
    for name in ("manifest.json", *(file.name for file in manifest.files)):
        console.print(output / name, highlight=False, soft_wrap=True)


@app.command()
def alias(
    model: Model,
    alias: Annotated[str, typer.Argument(help="Id of the alias, e.g. production.")],
    version: Annotated[int, typer.Argument(help="Number of the version it shall stand for.")],
    expected: Annotated[int, typer.Option(help="Number it stands for now; 0 if it is new.")] = 0,
) -> None:
    """Point an alias at a version, if it still stands where you expect it."""
    parent = f"models/{model}/versions"
    with connect() as mesh:
        moved = mesh.models.set_alias(
            model, alias, f"{parent}/{version}", expected=f"{parent}/{expected}" if expected else ""
        )
    console.print(f"{moved.name} -> {moved.version}")


@app.command()
def load(
    model: Model,
    version: Annotated[str, typer.Option(help="A version number or an alias; empty means the latest.")] = "",
) -> None:
    """Load a version for serving; the old one answers until the new one is ready."""
    with connect() as mesh:
        mesh.inference.load(model, version)
        console.print(f"{model} version {mesh.inference.metadata(model).versions[0]} is served")


@app.command()
def unload(model: Model) -> None:
    """Stop serving a model."""
    with connect() as mesh:
        mesh.inference.unload(model)
    console.print(f"{model} is not served any more")
