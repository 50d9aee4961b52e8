"""`deepseek ask`: a question about an image, answered by a served model."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from common.errors import FailedPrecondition
from deepseek.cli.output import AsJson, console, print_json
from deepseek.client import connect
from deepseek.models.inputs import encode_inputs


def ask(
    image: Annotated[Path, typer.Argument(help="An image file.", exists=True, dir_okay=False)],
    question: Annotated[str, typer.Argument(help="A question about it.")],
    model: Annotated[str, typer.Option(help="A served model that takes an image and a question.")] = "easy-vqa",
    as_json: AsJson = False,
) -> None:
    """Ask a served model a question about an image."""
    with connect() as mesh:
        number = mesh.inference.metadata(model).versions[0]
        manifest = mesh.models.manifest(mesh.models.version(f"models/{model}/versions/{number}"))
        values = {
            spec.name: image.read_bytes() if spec.encoder and spec.encoder.name == "image" else question
            for spec in manifest.inputs
        }
        outputs = mesh.inference.infer(model, encode_inputs(manifest, values), version=number)
    spec = manifest.outputs[0]
    if not spec.labels:
        raise FailedPrecondition("NO_LABELS", f"{model} does not answer with one of a set of labels", field="--model")
    scores = np.asarray(outputs[spec.name], dtype=np.float64).reshape(-1)
    probabilities = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    best = int(probabilities.argmax())
    if as_json:
        print_json({"answer": spec.labels[best], "probability": float(probabilities[best])})
    else:
        console.print(f"[bold]{spec.labels[best]}[/bold]  ({probabilities[best]:.1%})", highlight=False)
