"""`deepseek ask`: asks a served model a question about an image."""

from pathlib import Path
from typing import Annotated

import typer

from common.errors import FailedPrecondition
from deepseek.cli.completion import SERVED
from deepseek.cli.output import AsJson, bold, console, print_json
from deepseek.client import connect
from deepseek.client.names import served_version


def ask(
    image: Annotated[Path, typer.Argument(help="An image file.", exists=True, dir_okay=False)],
    question: Annotated[str, typer.Argument(help="A question about the image.")],
    model: Annotated[
        str, typer.Option(help="A served model whose inputs are an image and a question.", autocompletion=SERVED)
    ] = "easy-vqa",
    as_json: AsJson = False,
) -> None:
    """Ask a served model a question about an image. `deepseek predict` serves models of every kind."""
    served_version(model, field="--model")
    # Imported here, because every command would wait for NumPy and Pillow if they were imported at the top.
    from deepseek.client.predictor import Predictor

    with connect() as mesh:
        predictor = Predictor(mesh, model)
        encoders = sorted(spec.encoder.name if spec.encoder else "" for spec in predictor.manifest.inputs)
        if encoders not in (["characters", "image"], ["image", "words"]):
            fields = " ".join(f"{spec.field or spec.name}=VALUE" for spec in predictor.manifest.inputs)
            message = f"{model} does not answer questions about images; use: deepseek predict {model} {fields}"
            raise FailedPrecondition("UNSUITABLE_MODEL", message, field="--model")
        values = {
            spec.name: image.read_bytes() if spec.encoder and spec.encoder.name == "image" else question
            for spec in predictor.manifest.inputs
        }
        (found,) = predictor.predict([values])
    if found.error:
        raise found.error
    if not found.label:
        message = f"{model} cannot answer, because its output has no labels; use `deepseek predict {model}`"
        raise FailedPrecondition("NO_LABELS", message, field="--model")
    if as_json:
        print_json({"answer": found.label, "probability": found.probability})
    else:
        console.print(bold(found.label), f" ({found.probability:.1%})", highlight=False)
