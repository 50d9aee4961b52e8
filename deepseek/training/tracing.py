"""Traces a model as a graph for batches of any size: the first part of an export.

Tracing needs neither ONNX nor trained weights and fails for most models that cannot be exported, so a run tries it
before its first step. Inputs have the names of the batch, whatever `forward` calls them; outputs are the tensors in the
result of `forward`.
"""

import contextlib
import copy
import io
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from common.errors import FailedPrecondition
from deepseek.training import modules

_TORCH = str(Path(torch.__file__).parent)
# Errors of torch while it traces a model, and errors that a traced forward may raise itself.
_UNTRACEABLE = (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, LookupError, ArithmeticError)


class Outputs:
    """The outputs of a model: the names of its tensors in the graph, and their form in Python.

    Args:
        outputs: Result of a forward pass.

    Attributes:
        names: Names of the graph's outputs, in order.
    """

    def __init__(self, outputs: Any) -> None:
        self.names = [name for name, _ in modules.named_tensors(outputs)]
        self._form = outputs

    def restore(self, arrays: Sequence[npt.NDArray[Any]]) -> Any:
        """Returns the graph's outputs in the form in which the model returns them."""
        given = iter(arrays)
        return modules.map_tensors(lambda _: torch.from_numpy(next(given)), self._form)


def trace(
    model: nn.Module, example: Mapping[str, Tensor], repeated: Sequence[str]
) -> tuple[torch.export.ExportedProgram, Outputs]:
    """Traces what a model computes.

    Args:
        model: In evaluation mode, with float32 weights, on the CPU; its forward takes the example's keys and returns
            tensors in any nesting of lists, tuples, dicts and dataclasses.
        example: A batch of at least two samples, with at least two values of every repeated input.
        repeated: Inputs whose second axis is a list of any length, if the model accepts that.

    Returns:
        program: The graph, with the example's keys as its inputs and the tensors of the outputs as its own.
        outputs: The names and the form of the outputs.

    Raises:
        FailedPrecondition: EXPORT_UNSUPPORTED with the line of the model's code that cannot be traced.
    """
    try:
        with torch.no_grad():
            returned = model(**example)
    except _UNTRACEABLE as error:
        raise unsupported(f"it cannot take a batch of {len(next(iter(example.values())))}: {error}") from error
    outputs = Outputs(returned)
    if not outputs.names or modules.is_opaque(returned):
        kind = type(returned).__name__
        raise unsupported(f"it returns a {kind}; tensors in lists, tuples, dicts and dataclasses can be exported")
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
            # The model may accept lists of one length only: the example's.
            return _export(flat, inputs, tuple({0: batch} for _ in names)), outputs
    except _UNTRACEABLE as error:
        raise unsupported(_reason(error)) from error


def unsupported(reason: str) -> FailedPrecondition:
    """Returns the error for a model that cannot be exported."""
    return FailedPrecondition("EXPORT_UNSUPPORTED", f"the model cannot be written as ONNX: {reason[:500]}")


def _export(
    model: nn.Module, inputs: tuple[Tensor, ...], shapes: tuple[dict[int, Any], ...]
) -> torch.export.ExportedProgram:
    # torch describes a failure with pages of its own graph.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return torch.export.export(model, inputs, dynamic_shapes=(shapes,), strict=False)


def _reason(error: BaseException) -> str:
    """Returns a sentence or two that say why a model cannot be traced, and where in its code."""
    text = str(error).split("\n\n")[0].strip()
    if "data-dependent" in text:
        text = "its forward depends on the values of a tensor (if, while, int(), item()), but a graph is fixed"
    elif text.startswith("Constraints violated"):
        text = "its forward works only for some batch sizes; it must neither fix nor branch on the first axis"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_TORCH)]
    frames = [frame for frame in frames if frame.filename != __file__]
    if not frames:
        return text
    where = frames[-1]
    return f"{text}; {Path(where.filename).name}:{where.lineno}, in {where.name}: {where.line}"
