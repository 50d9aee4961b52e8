"""`deepseek dataset`: lists, uploads and reads data sets, and manages open uploads."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepseek.cli.completion import DATASET_VERSION, UPLOAD
from deepseek.cli.dataset_import import NewDataset, import_data
from deepseek.cli.dataset_quarantine import quarantine, repair
from deepseek.cli.dataset_show import Version, export, show
from deepseek.cli.output import AsJson, console, print_json, print_table, progress_bar
from deepseek.cli.uploading import committing, unchanged, version_names
from deepseek.client import connect
from deepseek.client.names import deletable_name, series_id, short_name, upload_name, version_name

if TYPE_CHECKING:
    from protos.ingest.v1 import ingest_pb2

app = typer.Typer(help="Import, list, show and export data sets.", no_args_is_help=True)
app.command("import")(import_data)
app.command()(show)
app.command()(export)
app.command()(quarantine)
app.command()(repair)


@app.command("list")
def list_datasets(as_json: AsJson = False) -> None:
    """List the data sets and their newest versions."""
    with connect() as mesh:
        rows = []
        for dataset in mesh.datasets.list():
            # A data set without versions is only a name, e.g. because all its versions were deleted.
            if newest := next(mesh.datasets.versions(dataset.name.partition("/")[2]), None):
                rows.append((dataset.name, newest.name, newest.num_samples))
    if as_json:
        print_json([{"dataset": name, "version": version, "num_samples": count} for name, version, count in rows])
    else:
        print_table(
            ["data set", "newest version", "samples"],
            [(short_name(name), short_name(version), count) for name, version, count in rows],
            none="there are no data sets; import one with `deepseek dataset import NAME SOURCE`",
        )


@app.command()
def upload(
    dataset: NewDataset,
    images: Annotated[Path, typer.Option(help="Folder that contains the images.", exists=True, file_okay=False)],
    questions: Annotated[
        Path,
        typer.Option(
            help="UTF-8 TSV file with the columns image, question and answer; a header line is optional.",
            exists=True,
            dir_okay=False,
        ),
    ],
    split: Annotated[str, typer.Option(help="Split of the samples.")] = "train",
    as_json: AsJson = False,
) -> None:
    """Upload images with questions and answers as a new version of a data set."""
    from deepseek.data.multimodal import MultiModalDataset

    dataset = series_id(dataset, "datasets", field="DATASET")
    files = MultiModalDataset(images, questions)
    with connect() as mesh, progress_bar() as bar:
        task = bar.add_task("uploading", total=files.num_images, note="")
        earlier = version_names(mesh, dataset)
        with committing(dataset, bar, task) as on_change:
            version = mesh.datasets.upload(
                dataset,
                files.fields,
                files.samples(split),
                on_sample=lambda number: bar.update(task, completed=number),
                on_change=on_change,
            )
    if as_json:
        print_json(
            {
                "version": version.name,
                "created": version.name not in earlier,
                "num_samples": version.num_samples,
                "sha256": version.manifest.sha256,
            }
        )
    else:
        console.print(f"{version.name}: {version.num_samples} samples{unchanged(version.name, earlier)}")


@app.command()
def uploads(as_json: AsJson = False) -> None:
    """List the open uploads, including those left behind by killed clients."""
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
        columns = ["upload", "data set", "samples", "last write (UTC)"]
        print_table(columns, rows, none="there are no open uploads")


@app.command()
def drop_upload(
    name: Annotated[
        str,
        typer.Argument(
            metavar="UPLOAD",
            help="Name of the upload, e.g. uploads/2f7c; see `deepseek dataset uploads`.",
            autocompletion=UPLOAD,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Delete an uncommitted upload and its samples."""
    name = upload_name(name, field="UPLOAD")
    with connect() as mesh:
        mesh.datasets.drop_upload(name)
    if as_json:
        print_json({"deleted": name})
    else:
        console.print(f"dropped {name}", highlight=False)


@app.command()
def read(
    version: Version,
    split: Annotated[str, typer.Option(help="Split to read.")] = "train",
    limit: Annotated[int, typer.Option(help="Number of samples to show.", min=1)] = 5,
    as_json: AsJson = False,
) -> None:
    """Show the first samples of a version, one JSON object per line; with --json, as one array.

    Binary values are shown as their length.
    """
    name = version_name(version, "datasets", field="VERSION")
    with connect() as mesh:
        samples = (_sample(one) for one in itertools.islice(mesh.datasets.read(name, split), limit))
        if as_json:
            print_json(list(samples))
            return
        for sample in samples:
            print_json(sample)


def _sample(sample: "ingest_pb2.Sample") -> dict[str, Any]:
    values = {
        value.field: [
            f"{len(v.data)} bytes" if v.HasField("data") else getattr(v, str(v.WhichOneof("kind")))
            for v in value.values
        ]
        for value in sample.fields
    }
    return {"key": sample.key, "sha256": sample.sha256, **values}


@app.command()
def delete(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET[:N]",
            help="A version, e.g. colours:3, or a whole data set.",
            autocompletion=DATASET_VERSION,
        ),
    ],
    every: Annotated[bool, typer.Option("--all", help="Delete the data set with all its versions.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a version that nothing uses. `deepseek gc` then deletes its samples.

    A version is in use if an alias points at it, if a model or another version was made from it, or if an active run
    trains on it.
    """
    name = deletable_name(dataset, "datasets", field="DATASET", every=every)
    with connect() as mesh:
        mesh.datasets.delete(name, every=every)
    if as_json:
        print_json({"deleted": name})
    else:
        console.print(f"deleted {short_name(name)}; `deepseek gc` frees its space", highlight=False)
