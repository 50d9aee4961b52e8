"""Properties of an ONNX file that ONNX Runtime does not expose: inputs and outputs without a declared shape, which look
like scalars, and the operators.

The file is memory-mapped and read as protobuf's wire format (protobuf.dev/programming-guides/encoding), so that weights
are skipped and never loaded. Field numbers are those of onnx.proto.
"""

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path

PRODUCTS = (b"QLinearConv", b"QLinearMatMul")
"""Operators that saturate in every mode of ONNX Runtime, on processors where 8-bit products saturate."""

_MODEL_GRAPH = 7
_GRAPH_INPUTS_AND_OUTPUTS = 11, 12
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_SHAPE = 2
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def names_without_shape(path: Path) -> frozenset[str]:
    """Returns the names of the inputs and outputs of a graph that declare no shape.

    Args:
        path: An ONNX file.

    Raises:
        ValueError: It is not an ONNX file.
    """
    with path.open("rb") as file:
        model = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    values = [value for graph in _parts(model, _MODEL_GRAPH) for value in _parts(graph, *_GRAPH_INPUTS_AND_OUTPUTS)]
    return frozenset(
        bytes(name).decode()
        for value in values
        for kind in _parts(value, _VALUE_TYPE)
        for tensor in _parts(kind, _TYPE_TENSOR)
        if not any(True for _ in _parts(tensor, _TENSOR_SHAPE))
        for name in _parts(value, _VALUE_NAME)
    )


def names_any(path: Path, names: Sequence[bytes]) -> bool:
    """Returns whether one of these texts is part of the name of an operator or of another name in a file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return any(data.find(name) >= 0 for name in names)


def _parts(message: memoryview, *numbers: int) -> Iterator[memoryview]:
    """Yields the length-delimited fields of an encoded message that have the given numbers."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        length = {_FIXED64: 8, _FIXED32: 4}.get(tag & 7, 0)
        if tag & 7 == _VARINT:
            _, position = _varint(message, position)
        elif tag & 7 == _LENGTH:
            length, position = _varint(message, position)
            if tag >> 3 in numbers:
                yield message[position : position + length]
        elif not length:
            raise ValueError("not a protobuf message")
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Returns a varint, 7 bits per byte, and the position after it."""
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a number is truncated or has more than 64 bits")
