"""Reads what ONNX Runtime does not expose about an ONNX file: its operators, and which shapes are undeclared.

ONNX Runtime reports an input or output without a declared shape as a scalar.

The file is memory-mapped, and its wire format is parsed directly, so weights are skipped, not loaded. Field numbers are
those of onnx.proto.
"""

import mmap
from collections.abc import Sequence
from pathlib import Path

from deepseek.models.onnx_wire import parts

PRODUCTS = (b"QLinearConv", b"QLinearMatMul")
"""Operators that saturate in every mode of ONNX Runtime, on processors where 8-bit products can saturate."""

_MODEL_GRAPH = 7
_GRAPH_INPUTS_AND_OUTPUTS = 11, 12
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_SHAPE = 2


def names_without_shape(path: Path) -> frozenset[str]:
    """Returns the names of the graph's inputs and outputs that have no declared shape.

    Args:
        path: ONNX file.

    Raises:
        ValueError: The file is not an ONNX file.
    """
    with path.open("rb") as file:
        model = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    values = [value for graph in parts(model, _MODEL_GRAPH) for value in parts(graph, *_GRAPH_INPUTS_AND_OUTPUTS)]
    return frozenset(
        bytes(name).decode()
        for value in values
        for kind in parts(value, _VALUE_TYPE)
        for tensor in parts(kind, _TYPE_TENSOR)
        if not any(True for _ in parts(tensor, _TENSOR_SHAPE))
        for name in parts(value, _VALUE_NAME)
    )


def names_any(path: Path, names: Sequence[bytes]) -> bool:
    """Returns whether any of these byte strings, e.g. parts of operator names, occurs anywhere in the file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return any(data.find(name) >= 0 for name in names)
