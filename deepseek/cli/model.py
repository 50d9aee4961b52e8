"""`deepseek model`: lists, shows, imports, evaluates, downloads and deletes models, moves aliases, loads models."""

from pathlib import Path
from typing import Annotated, Any

import typer

from common.errors import MeshError
from deepseek.cli import model_alias
from deepseek.cli.completion import MODEL_VERSION, REFERENCE_OF_MODEL, SERVED
from deepseek.cli.guarantees import full_guarantee_text, guarantee_json, guarantee_text
from deepseek.cli.interrupts import when_interrupted
from deepseek.cli.model_evaluate import compare, evaluate
from deepseek.cli.model_import import import_model
from deepseek.cli.model_view import description, print_description
from deepseek.cli.output import AsJson, console, error_console, make_folder, print_json, print_table, progress_bar
from deepseek.cli.precision import ratios_text
from deepseek.client import Mesh, connect
from deepseek.client.names import (
    deletable_name,
    resource_name,
    series_id,
    served_version,
    short_name,
    version_name,
)

app = typer.Typer(
    help="List, show, import, evaluate, compare, download and delete models; load and unload them; move aliases.",
    no_args_is_help=True,
)
app.add_typer(model_alias.app, name="alias")
app.command("import")(import_model)
app.command()(evaluate)
app.command()(compare)

Version = Annotated[
    str,
    typer.Argument(
        metavar="MODEL[:N]",
        help="A version, e.g. easy-vqa, easy-vqa:3 or easy-vqa@champion.",
        autocompletion=MODEL_VERSION,
    ),
]


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the versions of all models with their aliases, metrics and privacy, and which of them are served."""
    with connect() as mesh:
        models = [model.name.partition("/")[2] for model in mesh.models.list()]
        versions = [version for model in models for version in mesh.models.versions(model)]
        aliases = _aliases(mesh, models)
        served, problem = _served(mesh)
    if as_json:
        print_json(
            [
                {
                    "version": version.name,
                    "aliases": aliases.get(version.name, []),
                    "metrics": {metric.name: metric.value for metric in version.metrics},
                    "privacy": guarantee_json(version),
                    "served": served.get(version.name),
                }
                for version in versions
            ]
        )
        return
    print_table(
        ["version", "aliases", "served", "figures", "privacy", "made from"],
        [
            (
                short_name(version.name),
                ", ".join(aliases.get(version.name, [])),
                served.get(version.name, "").partition(":")[0],
                ", ".join(f"{metric.name} {metric.value:.4f}" for metric in version.metrics),
                guarantee_text(guarantee_json(version)),
                ", ".join(version.sources),
            )
            for version in versions
        ],
        none="there are no model versions; add one with `deepseek train SPEC --model NAME` or "
        "`deepseek model import NAME FILE.onnx`",
    )
    if problem:
        error_console.print(f"the served versions are unknown: {problem}", soft_wrap=True)


def _aliases(mesh: Mesh, models: list[str]) -> dict[str, list[str]]:
    """Returns the ids of the aliases that point at each version."""
    found: dict[str, list[str]] = {}
    for model in models:
        for alias in mesh.models.aliases(model):
            found.setdefault(alias.version, []).append(alias.name.rpartition("/")[2])
    return found


def _served(mesh: Mesh) -> tuple[dict[str, str], str]:
    """Returns, for each served version, which file it uses and why, and an empty error message.

    If the inference service fails, returns an empty dict and the service's error message instead.
    """
    try:
        loaded = list(mesh.inference.index(ready=True))
    except MeshError as error:
        return {}, error.message
    return {f"models/{one.name}/versions/{one.version}": one.reason for one in loaded}, ""


@app.command()
def show(version: Version, as_json: AsJson = False) -> None:
    """Show a version: its inputs and outputs, files, figures, aliases, licence, sources, and whether it is served."""
    name = version_name(version, "models", field="MODEL")
    with connect() as mesh:
        found = description(mesh, mesh.models.version(name))
    if as_json:
        print_json(found)
    else:
        print_description(found)


@app.command()
def served(as_json: AsJson = False) -> None:
    """List the loaded models, with the version and file of each and the aliases that point at that version."""
    with connect() as mesh:
        rows = [_served_row(mesh, one.name, one.version) for one in mesh.inference.index(ready=True)]
    if as_json:
        print_json(rows)
    elif rows:
        columns = ("file", "variant", "instruction_set", "reason")
        print_table(
            ["version", "aliases", "file", "variant", "runs on", "reason"],
            [
                (short_name(row["version"]), ", ".join(row["aliases"]), *(row[column] for column in columns))
                for row in rows
            ],
        )
    else:
        console.print("no model is served; load one with `deepseek model load MODEL`", highlight=False)


def _served_row(mesh: Mesh, model: str, number: str) -> dict[str, Any]:
    metadata = mesh.inference.metadata(model, number)
    version = f"models/{model}/versions/{number}"
    names = ("file", "variant", "instruction_set", "reason")
    return {
        "version": version,
        "aliases": _aliases(mesh, [model]).get(version, []),
        **{name: metadata.parameters[name].string_param for name in names},
    }


@app.command()
def lineage(
    version: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A model version, e.g. easy-vqa:1, or another resource, e.g. datasets/colours:1 or runs/x7.",
            autocompletion=MODEL_VERSION,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show the sources and descendants of a version, the privacy of each, and the precision of its training."""
    name = resource_name(version, field="NAME")
    with connect() as mesh:
        graph = mesh.models.lineage_graph(name)
        edges = [(edge.source, edge.target) for edge in graph.edges]
        guarantees = {one.version: guarantee_json(one) for one in graph.guarantees}
        found = mesh.models.manifest(mesh.models.version(name)).precision if name.startswith("models/") else None
    if as_json:
        precision = vars(found) | {"ratios": dict(found.ratios)} if found else None
        print_json(
            {
                "edges": [{"source": a, "target": b} for a, b in edges],
                "guarantees": guarantees,
                "precision": precision,
            }
        )
        return
    if edges:
        print_table(["source", "target"], edges)
    else:
        console.print(f"{version} was made from nothing in this mesh, and nothing was made from it", highlight=False)
    for one, guarantee in guarantees.items():
        console.print(f"{short_name(one)} guarantees {full_guarantee_text(guarantee)}", highlight=False)
    if found:
        text = f"trained in {found.precision} ({found.reason}){ratios_text(found.ratios)} ({found.instruction_set})"
        console.print(text, highlight=False, soft_wrap=True)


@app.command()
def download(
    version: Version,
    output: Annotated[Path, typer.Option(help="Folder for the files; created if it is missing.")],
    as_json: AsJson = False,
) -> None:
    """Download the files and the manifest of a version to a folder, and verify them."""
    name = version_name(version, "models", field="MODEL")
    make_folder(output, "--output")
    left = f"stopped; {output} contains the files that were complete; run the same command to download all files"
    with connect() as mesh, when_interrupted(left), progress_bar() as bar:
        task = bar.add_task("downloading", total=None, note="bytes")
        manifest = mesh.models.download(
            name, output, on_bytes=lambda so_far, total: bar.update(task, completed=so_far, total=total)
        )
    files = [output / file for file in ("manifest.json", *(file.name for file in manifest.files))]
    if as_json:
        print_json({"files": [str(file) for file in files]})
        return
    for file in files:
        console.print(file, highlight=False, soft_wrap=True)


@app.command()
def load(
    model: Version,
    version: Annotated[
        str,
        typer.Option(
            help="A version number or an alias, if MODEL does not name one.", autocompletion=REFERENCE_OF_MODEL
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Load a version for serving, by default the newest. The previous version is served until the new one is ready."""
    name, _ = served_version(model, field="MODEL")
    with connect() as mesh:
        mesh.inference.load(model, version)
        found = _served_row(mesh, name, mesh.inference.metadata(name).versions[0])
    if as_json:
        print_json(found)
    else:
        text = f"{short_name(found['version'])} is served from {found['file']} ({found['variant']}): {found['reason']}"
        console.print(text, highlight=False, soft_wrap=True)


@app.command()
def unload(
    model: Annotated[str, typer.Argument(help="Name of the model.", autocompletion=SERVED)],
    as_json: AsJson = False,
) -> None:
    """Stop serving a model."""
    name = series_id(model, "models", field="MODEL")
    with connect() as mesh:
        mesh.inference.unload(name)
    if as_json:
        print_json({"model": name, "served": False})
    else:
        console.print(f"{name} is no longer served", highlight=False)


@app.command()
def delete(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL[:N]", help="A version, e.g. easy-vqa:3, or a whole model.", autocompletion=MODEL_VERSION
        ),
    ],
    every: Annotated[bool, typer.Option("--all", help="Delete the model with all its versions.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a version that nothing uses. `deepseek gc` then deletes its files.

    A version is in use if it is served or being loaded, if an alias points at it, if another version was made from it,
    or if an active run starts from it.
    """
    name = deletable_name(model, "models", field="MODEL", every=every)
    with connect() as mesh:
        mesh.models.delete(name, every=every)
    if as_json:
        print_json({"deleted": name})
    else:
        console.print(f"deleted {short_name(name)}; `deepseek gc` frees its space", highlight=False)
