"""Reads single fields of ONNX files without the package `onnx`, which clients do not have.

The file is memory-mapped, and its protobuf wire format (protobuf.dev/programming-guides/encoding) is parsed directly.
Weights are thus skipped, not loaded. Files are untrusted. Field numbers are those of onnx.proto.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

_CHILDREN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse_tensor"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse_tensor", 23: "sparse_tensor"},
    "sparse_tensor": {1: "tensor", 2: "tensor"},
}
"""The messages through which tensors are reached, with the fields that hold them."""
_EXTERNAL_DATA = 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


def external_locations(path: Path) -> list[str]:
    """Returns the locations of the files that hold a model's external data, as the model states them, without
    duplicates.

    Args:
        path: ONNX file.

    Raises:
        ValueError: The file is not an ONNX file.
    """
    found: dict[str, None] = {}
    with path.open("rb") as file:
        stack = [("model", memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))]
    while stack:
        kind, message = stack.pop()
        if kind == "tensor":
            for entry in parts(message, _EXTERNAL_DATA):
                if b"location" in map(bytes, parts(entry, _ENTRY_KEY)):
                    found.update((bytes(value).decode(), None) for value in parts(entry, _ENTRY_VALUE))
        else:
            for number, child in _CHILDREN[kind].items():
                stack += [(child, part) for part in parts(message, number)]
    return list(found)


def parts(message: memoryview, *numbers: int) -> Iterator[memoryview]:
    """Yields the length-delimited fields of an encoded message whose field number is one of `numbers`."""
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
    """Decodes a varint (7 bits per byte) at a position; returns its value and the position after it."""
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a varint is truncated or longer than 64 bits")
