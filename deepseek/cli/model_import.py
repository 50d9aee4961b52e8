"""`deepseek model import`: registers an ONNX model that was made elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import InvalidArgument
from deepseek.cli.completion import MODEL
from deepseek.cli.interrupts import when_interrupted
from deepseek.cli.model_view import description, print_description
from deepseek.cli.output import AsJson, print_json, progress_bar
from deepseek.client import connect
from deepseek.client.names import series_id

if TYPE_CHECKING:
    from protos.job.v1 import job_pb2


def import_model(
    model: Annotated[
        str, typer.Argument(help="Name of the model, which need not exist, e.g. voice.", autocompletion=MODEL)
    ],
    source: Annotated[
        Path, typer.Argument(metavar="FILE.onnx|DIR", help="The model, or a folder that contains exactly one.")
    ],
    license: Annotated[str, typer.Option(help="Licence of the model, e.g. MIT.")] = "",
    note: Annotated[str, typer.Option(help="Note for people, e.g. where the model comes from.")] = "",
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Text file with the names of the classes, one per line, in the order of the model's scores.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    example: Annotated[
        Path | None,
        typer.Option(
            help="One sample for every input, as an .npz file, for a model that rejects generated requests.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Register an ONNX model as a version, after its graph and requests of two batch sizes were checked.

    External data beside the file is merged into it. Then serve the version with `deepseek model load MODEL`.
    """
    model = series_id(model, "models", field="MODEL")
    names = _lines(labels) if labels else []
    left = "stopped; nothing was registered"

    def on_change(job: "job_pb2.Job") -> None:
        nonlocal left
        left = "stopped watching; the import continues, and `deepseek model list` shows the version if it succeeds"
        bar.update(task, note=job.message)

    with connect() as mesh:
        with progress_bar() as bar, when_interrupted(lambda: left):
            task = bar.add_task("importing", total=None, note="sending")
            version = mesh.models.import_onnx(
                model,
                source,
                license=license,
                note=note,
                labels=names,
                example=example,
                on_bytes=lambda so_far, total: bar.update(task, completed=so_far, total=total),
                on_change=on_change,
            )
        found = description(mesh, version)
    if as_json:
        print_json(found)
        return
    print_description(found)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidArgument("BAD_TEXT", f"{path} is not UTF-8 text", field="--labels") from error
