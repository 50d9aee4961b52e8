"""`deepseek infer`: runs a loaded model on arrays."""

from pathlib import Path
from typing import Annotated, Any

import typer

from common.errors import InvalidArgument
from deepseek.cli.completion import SERVED
from deepseek.cli.output import AsJson, as_json_value, console, make_folder, print_json, writing
from deepseek.client import connect
from deepseek.client.names import served_version
from deepseek.client.served import served_number
from protos.inference.v2 import inference_pb2


def infer(
    model: Annotated[
        str, typer.Argument(help="A served model, e.g. digits, digits:3 or digits@champion.", autocompletion=SERVED)
    ],
    inputs: Annotated[
        list[str], typer.Option("--input", help="An input as NAME=FILE.npy; repeat it for each input.")
    ] = [],  # noqa: B006
    output: Annotated[Path | None, typer.Option(help="Write the outputs to this .npz file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a loaded model on arrays from .npy files. Without --input, show the model's inputs and outputs."""
    served_version(model, field="MODEL")
    if output:
        make_folder(output.parent, "--output")
    with connect() as mesh:
        name, number = served_number(mesh, model, field="MODEL")
        if not inputs:
            _show(mesh.inference.metadata(name, number), as_json=as_json)
            return
        outputs = mesh.inference.infer(name, dict(_read(item) for item in inputs), version=number)
    if output:
        import numpy as np  # imported here, because every command would wait for it if it were imported at the top

        with writing(output, "--output"):
            # The elements of a BYTES output are objects, which a file without pickles cannot hold.
            plain = {name: one.astype(np.bytes_) if one.dtype == object else one for name, one in outputs.items()}
            np.savez(output, allow_pickle=False, **plain)
    if as_json:
        print_json({name: as_json_value(array) for name, array in outputs.items()})
    else:
        for name, array in outputs.items():
            console.print(f"{name}: {array.dtype} {list(array.shape)}\n{array}", highlight=False)


def _show(metadata: inference_pb2.ModelMetadataResponse, *, as_json: bool) -> None:
    tensors = [("inputs", one) for one in metadata.inputs] + [("outputs", one) for one in metadata.outputs]
    if as_json:
        document: dict[str, list[dict[str, Any]]] = {"inputs": [], "outputs": []}
        for kind, tensor in tensors:
            document[kind].append({"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)})
        print_json(document)
        return
    for kind, tensor in tensors:
        text = f"{kind.removesuffix('s')} {tensor.name}: {tensor.datatype} {list(tensor.shape)}"
        console.print(text, highlight=False)


def _read(item: str) -> tuple[str, Any]:
    name, separator, path = item.partition("=")
    if not separator:
        raise InvalidArgument("BAD_INPUT", f"the input {item!r} does not have the form NAME=FILE.npy", field="--input")
    import numpy as np

    try:
        return name, np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InvalidArgument(
            "BAD_INPUT", f"{path} cannot be read as a .npy file: {error}", field=f"--input {name}"
        ) from error
