"""Traces a model into a graph that accepts batches of any size. Tracing is the first stage of an export.

Tracing needs neither ONNX nor trained weights, and most models that cannot be exported already fail at this stage. So a
run traces its model before its first step. The graph's inputs are named after the keys of the batch, not after the
arguments of `forward`. Its outputs are the tensors in the result of `forward`.
"""

import contextlib
import copy
import io
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from common.errors import FailedPrecondition
from deepseek.models.datatypes import DTYPES
from deepseek.training import modules

ABSOLUTE_TOLERANCE = 1e-3
RELATIVE_TOLERANCE = 1e-3
"""An element x of a graph's output may differ from the model's by `ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * |x|`."""

_TORCH = str(Path(torch.__file__).parent)
# Errors that torch raises while it traces a model, and errors that the model's forward may raise itself.
_UNTRACEABLE = (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, LookupError, ArithmeticError)

_SERVED = {torch.from_numpy(np.empty(0, dtype)).dtype for dtype in DTYPES.values() if dtype.kind != "O"}


class Outputs:
    """The outputs of a model: the tensors' names in the graph, and their structure in the Python result.

    Args:
        outputs: Result of the model's forward pass.

    Attributes:
        names: Names of the graph's outputs, in order.
    """

    def __init__(self, outputs: Any) -> None:
        self.names = [name for name, _ in modules.named_tensors(outputs)]
        self._form = outputs

    def restore(self, arrays: Sequence[npt.NDArray[Any]]) -> Any:
        """Converts the graph's outputs to tensors, and returns them in the structure of the model's Python result."""
        given = iter(arrays)
        return modules.map_tensors(lambda _: torch.from_numpy(next(given)), self._form)


def trace(
    model: nn.Module, example: Mapping[str, Tensor], repeated: Sequence[str]
) -> tuple[torch.export.ExportedProgram, Outputs]:
    """Traces the computation of a model.

    Args:
        model: Model in evaluation mode, with float32 weights, on the CPU; its forward takes the example's keys
            as keyword arguments and returns tensors, which may be nested in lists, tuples, dicts and dataclasses.
        example: A batch of at least two samples, with at least two values of every repeated input.
        repeated: Names of the inputs whose second axis is a list of values. The graph accepts lists of any length if
            the model does.

    Returns:
        program: Graph whose inputs are named after the example's keys. Its outputs are the tensors in the model's
            result.
        outputs: Names and structure of the outputs.

    Raises:
        FailedPrecondition: EXPORT_UNSUPPORTED if the model cannot be traced. The message names the responsible line of
            code if it is known.
    """
    try:
        with torch.no_grad():
            returned = model(**example)
    except _UNTRACEABLE as error:
        raise unsupported(f"it fails on a batch of {len(next(iter(example.values())))} samples: {error}") from error
    outputs = Outputs(returned)
    if not outputs.names or modules.is_opaque(returned):
        kind = type(returned).__name__
        raise unsupported(
            f"it returns a value of type {kind}; only tensors in lists, tuples, dicts or dataclasses can be exported"
        )
    for name, tensor in modules.named_tensors(returned):
        if tensor.dtype not in _SERVED:
            found = str(tensor.dtype).removeprefix("torch.")
            raise unsupported(
                f"its result {name!r} has the type {found}, which a server cannot return; convert it, e.g. to float32"
            )
    names, forward = list(example), model.forward

    def flat_forward(*inputs: Tensor) -> tuple[Tensor, ...]:
        found = modules.named_tensors(forward(**dict(zip(names, inputs, strict=True))))
        return tuple(tensor for _, tensor in found)

    flat = copy.copy(model)  # shares the parameters, under the same names
    flat.forward = flat_forward
    inputs = tuple(example.values())
    batch, values = torch.export.Dim("batch"), torch.export.Dim("values")
    shapes = tuple({0: batch, **({1: values} if name in repeated else {})} for name in names)
    try:
        try:
            return _export(flat, inputs, shapes), outputs
        except torch._dynamo.exc.UserError:
            if not repeated:
                raise
            # The model may accept lists of only one length, that of the example.
            return _export(flat, inputs, tuple({0: batch} for _ in names)), outputs
    except _UNTRACEABLE as error:
        raise unsupported(_reason(error)) from error


def check_single(model: nn.Module, program: torch.export.ExportedProgram, example: Mapping[str, Tensor]) -> None:
    """Checks that a graph computes what its model computes for a batch of another size: the first sample alone.

    Args:
        model: The model, in evaluation mode.
        program: Graph of the model, from `trace`.
        example: The batch with which the model was traced.

    Raises:
        FailedPrecondition: EXPORT_UNSUPPORTED if the model or the graph fails, or if their outputs differ.
    """
    first = {name: tensor[:1] for name, tensor in example.items()}
    try:
        with torch.no_grad():
            expected = [tensor for _, tensor in modules.named_tensors(model(**first))]
            found = program.module()(*first.values())
    except _UNTRACEABLE as error:
        raise unsupported(f"it fails on a batch of 1 sample: {error}") from error
    advice = "its forward must not test the size of the first axis, or draw random numbers"
    for number, (wanted, given) in enumerate(zip(expected, found, strict=True)):
        if wanted.shape != given.shape:
            text = f"for 1 sample, output {number} has shape {list(wanted.shape)}, but {list(given.shape)} in the graph"
            raise unsupported(f"{text}; {advice}")
        ours, theirs = given.double(), wanted.double()
        # Outputs of an untrained model may be NaN or infinite.
        is_equal = torch.isclose(ours, theirs, RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE, equal_nan=True)
        if not is_equal.all():
            gap = (ours - theirs)[~is_equal].abs().max().item()
            raise unsupported(f"for 1 sample, output {number} differs from the graph's by up to {gap:.2g}; {advice}")


def unsupported(reason: str) -> FailedPrecondition:
    """Returns the error for a model that cannot be exported."""
    return FailedPrecondition("EXPORT_UNSUPPORTED", f"the model cannot be written as ONNX: {reason[:500]}")


def is_in_torch(file: str) -> bool:
    """Returns whether a source file belongs to torch."""
    return file.startswith(_TORCH)


def place(file: str, number: int | str | None, function: str, line: str | None) -> str:
    """Returns a line of code with its place, for error messages."""
    return f"{Path(file).name}:{number}, in {function}: {line}"


def _export(
    model: nn.Module, inputs: tuple[Tensor, ...], shapes: tuple[dict[int, Any], ...]
) -> torch.export.ExportedProgram:
    # If tracing fails, torch prints pages of output about its internal graph. This output is discarded.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return torch.export.export(model, inputs, dynamic_shapes=(shapes,), strict=False)


def _reason(error: BaseException) -> str:
    """Returns a short reason why a model cannot be traced, with the responsible line of the model's code."""
    text = str(error).split("\n\n")[0].strip()
    if "data-dependent" in text:
        text = "its forward depends on the values of a tensor (if, while, int(), item()), but a graph is fixed"
    elif text.startswith("Constraints violated"):
        text = "its forward works only for some batch sizes; it must not fix or test the size of the first axis"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_in_torch(frame.filename)]
    frames = [frame for frame in frames if frame.filename != __file__]
    if not frames:
        return text
    where = frames[-1]
    return f"{text}; {place(where.filename, where.lineno, where.name, where.line)}"
