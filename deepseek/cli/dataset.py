"""`deepseek dataset`: list, upload and look into data sets, and see to uploads that were left behind."""

import json
from pathlib import Path
from typing import Annotated

import typer

from deepseek.cli.output import AsJson, console, print_json, print_table, progress_bar
from deepseek.client import connect

app = typer.Typer(help="List, upload and read data sets.", no_args_is_help=True)


@app.command("list")
def list_datasets(as_json: AsJson = False) -> None:
    """List the data sets and their newest versions."""
    with connect() as mesh:
        rows = []
        for dataset in mesh.datasets.list():
            newest = next(mesh.datasets.versions(dataset.name.partition("/")[2]), None)
            rows.append((dataset.name, newest.name if newest else "", newest.num_samples if newest else 0))
    if as_json:
        print_json([{"dataset": name, "version": version, "num_samples": count} for name, version, count in rows])
    else:
        print_table(["data set", "newest version", "samples"], rows)


@app.command()
def upload(
    dataset: Annotated[str, typer.Argument(help="Id of the data set; it need not exist.")],
    images: Annotated[Path, typer.Option(help="Folder of the images.", exists=True, file_okay=False)],
    questions: Annotated[
        Path,
        typer.Option(help="UTF-8 TSV: image, question, answer; a header is optional.", exists=True, dir_okay=False),
    ],
    split: Annotated[str, typer.Option(help="Split that the samples belong to.")] = "train",
    as_json: AsJson = False,
) -> None:
    """Upload images with questions and answers as a new version of a data set."""
    from deepseek.data.multimodal import MultiModalDataset

    files = MultiModalDataset(images, questions)
    with connect() as mesh, progress_bar() as bar:
        task = bar.add_task("uploading", total=files.num_images, note="")
        version = mesh.datasets.upload(
            dataset,
            files.fields,
            files.samples(split),
            on_sample=lambda number: bar.update(task, completed=number),
            on_change=lambda job: bar.update(task, note=job.message),
        )
    if as_json:
        print_json({"version": version.name, "num_samples": version.num_samples, "sha256": version.manifest.sha256})
    else:
        console.print(f"{version.name}: {version.num_samples} samples")


@app.command()
def uploads(as_json: AsJson = False) -> None:
    """List the uploads that are open: under way, or left behind by a client that was killed."""
    with connect() as mesh:
        found = list(mesh.datasets.uploads())
    if as_json:
        print_json(
            [
                {
                    "upload": one.name,
                    "dataset": one.dataset,
                    "num_samples": one.num_samples,
                    "update_time": one.update_time.ToJsonString(),
                }
                for one in found
            ]
        )
    else:
        rows = [
            (one.name, one.dataset, one.num_samples, f"{one.update_time.ToDatetime():%Y-%m-%d %H:%M}") for one in found
        ]
        print_table(["upload", "data set", "samples", "last write (UTC)"], rows)


@app.command()
def drop_upload(
    name: Annotated[str, typer.Argument(help="e.g. uploads/2f7c; see `deepseek dataset uploads`.")],
) -> None:
    """Drop an upload that was not committed, with its samples."""
    with connect() as mesh:
        mesh.datasets.drop_upload(name)
    console.print(f"dropped {name}", highlight=False)


@app.command()
def read(
    version: Annotated[str, typer.Argument(help="e.g. datasets/easy-vqa/versions/1")],
    split: Annotated[str, typer.Option(help="Split to read.")] = "train",
    limit: Annotated[int, typer.Option(help="How many samples to show.", min=1)] = 5,
) -> None:
    """Show the first samples of a version, one JSON object a line; bytes are shown by their length."""
    with connect() as mesh:
        for sample, _ in zip(mesh.datasets.read(version, split), range(limit), strict=False):
            shown = {
                value.field: [
                    f"{len(v.data)} bytes" if v.HasField("data") else getattr(v, str(v.WhichOneof("kind")))
                    for v in value.values
                ]
                for value in sample.fields
            }
            print(json.dumps({"key": sample.key, "sha256": sample.sha256, **shown}, ensure_ascii=False))
