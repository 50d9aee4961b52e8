"""`deepseek infer`: send arrays through a loaded model."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from common.errors import InvalidArgument
from deepseek.cli.output import AsJson, console, make_folder, print_json, writing
from deepseek.client import connect


def infer(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    inputs: Annotated[list[str], typer.Option("--input", help="NAME=FILE.npy; once for each input.")] = [],  # noqa: B006
    output: Annotated[Path | None, typer.Option(help="Write the outputs to this .npz file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a loaded model on arrays from .npy files. Without --input, show what the model takes and gives."""
    if output:
        make_folder(output.parent, "--output")
    with connect() as mesh:
        metadata = mesh.inference.metadata(model)
        if not inputs:
            for kind, tensors in (("input", metadata.inputs), ("output", metadata.outputs)):
                for tensor in tensors:
                    console.print(f"{kind} {tensor.name}: {tensor.datatype} {list(tensor.shape)}", highlight=False)
            return
        outputs = mesh.inference.infer(model, dict(_read(item) for item in inputs))
    if output:
        with writing(output, "--output"):
            np.savez(output, allow_pickle=False, **outputs)
    if as_json:
        print_json({name: array.tolist() for name, array in outputs.items()})
    else:
        for name, array in outputs.items():
            console.print(f"{name}: {array.dtype} {list(array.shape)}\n{array}", markup=False, highlight=False)


def _read(item: str) -> tuple[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"]:
    name, separator, path = item.partition("=")
    if not separator:
        raise InvalidArgument("BAD_INPUT", f"{item!r} is not NAME=FILE.npy", field="--input")
    try:
        return name, np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InvalidArgument(
            "BAD_INPUT", f"{path} cannot be read as .npy: {error}", field=f"--input {name}"
        ) from error
