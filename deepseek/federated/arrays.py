"""Parameters of a model, and updates of them, as NumPy arrays and as safetensors bytes.

Bytes that come from a node are not trusted. Their size and their header are compared with the arrays that are expected
before anything is allocated. Values are not checked here: `updates.py` refuses numbers that are not finite.
"""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from common.errors import InvalidArgument
from deepseek.data import canonical_json

Arrays = Mapping[str, npt.NDArray[np.float32]]
"""Arrays by name, float32 in C order. Functions of this package return them sorted by name."""

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each array, by name."""

MEDIA_TYPE = "application/vnd.safetensors"
MAX_BYTES = 8 << 30
"""Maximum size of bytes that are read without `like`."""

_HEADER_BYTES = 4096
"""Bytes of a header that are allowed in addition to those that each array may use."""
_HEADER_BYTES_PER_ARRAY = 512


def shapes_of(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of arrays, sorted by name.

    >>> shapes_of({"w": np.zeros((2, 3), np.float32)})
    {'w': (2, 3)}
    """
    return {name: arrays[name].shape for name in sorted(arrays)}


def max_bytes(like: Shapes) -> int:
    """Returns the size in bytes that arrays of the given shapes never exceed on the wire."""
    return 8 + _max_header_bytes(like) + 4 * num_values(like)


def num_values(like: Shapes) -> int:
    """Returns the total number of values of arrays."""
    return sum(math.prod(shape) for shape in like.values())


def to_bytes(arrays: Arrays) -> bytes:
    """Returns arrays as safetensors bytes. Equal arrays give equal bytes.

    Raises:
        InvalidArgument: BAD_MODEL_STATE, with the name of the array as the field, if an array is not float32.
    """
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise InvalidArgument(
                "BAD_MODEL_STATE",
                f"{name} has the dtype {array.dtype}; only float32 can be averaged, so remove or convert it",
                field=name,
            )
    # Unlike ascontiguousarray, asarray keeps the shape ().
    data: bytes = safetensors.numpy.save({name: np.asarray(arrays[name], order="C") for name in sorted(arrays)})
    return data


def from_bytes(data: bytes, like: Shapes | None = None, *, field: str = "arrays") -> dict[str, npt.NDArray[np.float32]]:
    """Reads arrays from untrusted safetensors bytes.

    Args:
        data: The bytes.
        like: Names and shapes that the arrays must have; None accepts any.
        field: Path of the bytes in the caller's request.

    Returns:
        The arrays, sorted by name. They may be NaN or infinite.

    Raises:
        InvalidArgument: BAD_UPDATE, if the bytes are not a valid file, hold another dtype than little-endian float32,
            or do not match `like`.
    """

    def refuse(problem: str) -> InvalidArgument:
        return InvalidArgument("BAD_UPDATE", f"{field} {problem}", field=field)

    limit = MAX_BYTES if like is None else max_bytes(like)
    if not 8 <= len(data) <= limit:
        raise refuse(f"has {len(data)} bytes; from 8 to {limit} are accepted")
    header_bytes = int.from_bytes(data[:8], "little")
    if header_bytes > min(len(data) - 8, canonical_json.MAX_BYTES if like is None else _max_header_bytes(like)):
        raise refuse(f"has a header of {header_bytes} bytes, which is longer than the arrays need")
    header = canonical_json.parse(data[8 : 8 + header_bytes], reason="BAD_UPDATE", document=field).mapping()
    header.pop("__metadata__", None)
    if like is not None and header.keys() != like.keys():
        missing, unknown = sorted(like.keys() - header.keys()), sorted(header.keys() - like.keys())
        raise refuse(f"has other arrays than the model: missing {_some(missing)}; unknown {_some(unknown)}")
    for name, entry in header.items():
        members = entry.object("dtype", "shape", "data_offsets")
        members["dtype"].string(choices=["F32"])
        shape = tuple(size.integer() for size in members["shape"].array(max_items=32))
        if like is not None and shape != like[name]:
            raise refuse(f"has {name[:80]!r} with the shape {shape}; the model has {like[name]}")
    try:
        # Rejects offsets that overlap, leave gaps, or do not match the shapes.
        loaded = safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise refuse(f"is not a valid safetensors file: {str(error)[:200]}") from error
    return {name: loaded[name] for name in sorted(loaded)}


def all_finite(arrays: Arrays) -> bool:
    """Returns whether no value is NaN or infinite."""
    return all(bool(np.isfinite(array).all()) for array in arrays.values())


def _max_header_bytes(like: Shapes) -> int:
    # A name is at most 6 bytes per character in JSON, as an escape.
    return _HEADER_BYTES + sum(_HEADER_BYTES_PER_ARRAY + 12 * len(name) for name in like)


def _some(names: list[str]) -> str:
    return (
        ", ".join(name[:80] for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "none"
    )
