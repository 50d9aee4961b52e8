"""Synthetic requests for versions without probes, made from what a graph declares.

Nobody knows what the model expects, so there are several attempts, with different sizes for dynamic dimensions and
different bounds for integers, which may be tokens. The requests of an attempt are of several kinds. Some have small and
some large values, up to numbers that fill the range of any quantised input, because 8-bit sums saturate where
activations are large. Some are constant, some patches, some noise, because sums are largest where neighbours are alike.
UINT8 inputs get pixels of 0 to 255, and inputs whose encoder knows the number of tokens get such tokens.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import overload

import numpy as np

from deepseek.models.manifest import TensorSpec
from services.inference.engine import DTYPES, Array, Tensor

_CELLS = (1, 8, None)
"""Number of different values along each axis; None is one for each position."""
_MAGNITUDES = (255.0, 1.0, 1e9, 32767.0)
_KINDS = tuple(product(_CELLS, _MAGNITUDES))
NUM_KINDS = len(_KINDS)
"""Number of kinds. Requests whose numbers differ by it are of the same kind."""
NUM_REQUESTS = 2 * NUM_KINDS
Request = dict[str, Array]
_SIZES = (8, 64, 224, 1)
_INTEGERS_BELOW = (1 << 15, 100, 2)
_MAX_ELEMENTS = 1 << 22


def make_requests(tensors: Sequence[Tensor], specs: Sequence[TensorSpec]) -> Iterator[Sequence[Request]]:
    """Yields attempts, the most likely ones first, each a sequence of requests that are made on access.

    Args:
        tensors: The graph's inputs.
        specs: Inputs in the manifest; their encoders give the number of tokens.
    """
    bounds = {spec.name: _vocabulary(spec) for spec in specs}
    varies = any(isinstance(dim, str) for tensor in tensors for dim in _dims(tensor)[1:])
    guesses = any(tensor.datatype.startswith(("INT", "UINT")) and not bounds.get(tensor.name) for tensor in tensors)
    for size, below in product(_SIZES if varies else _SIZES[:1], _INTEGERS_BELOW if guesses else _INTEGERS_BELOW[:1]):
        shapes = {tensor.name: _shape(tensor, size) for tensor in tensors}
        if all(math.prod(shape) <= _MAX_ELEMENTS for shape in shapes.values()):
            yield _Attempt(tensors, shapes, bounds, below)


@dataclass(frozen=True)
class _Attempt(Sequence[Request]):
    """The requests of an attempt.

    Attributes:
        tensors: The graph's inputs.
        shapes: Of each input, by name.
        bounds: Number of tokens of each input whose encoder knows it.
        below: Upper bound of other integers.
    """

    tensors: Sequence[Tensor]
    shapes: Mapping[str, tuple[int, ...]]
    bounds: Mapping[str, int]
    below: int

    def __len__(self) -> int:
        return NUM_REQUESTS

    @overload
    def __getitem__(self, index: int) -> Request: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Request]: ...
    def __getitem__(self, index: int | slice) -> Request | Sequence[Request]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        return _request(self.tensors, self.shapes, self.bounds, self.below, range(len(self))[index])


def _request(
    tensors: Sequence[Tensor], shapes: Mapping[str, tuple[int, ...]], bounds: Mapping[str, int], below: int, number: int
) -> Request:
    random = np.random.default_rng(number)
    cells, magnitude = _KINDS[number % NUM_KINDS]

    def values(tensor: Tensor) -> Array:
        bound = bounds.get(tensor.name) or min(below, 1 + int(magnitude))
        # Constant tokens reveal nothing; patches are for pixels and numbers.
        drawn = None if bounds.get(tensor.name) else cells
        # Non-negative at first: inputs without a negative range clip negative numbers to 0.
        lowest = 0 if number < NUM_KINDS else -1
        return _values(random, tensor.datatype, shapes[tensor.name], drawn, bound, lowest * magnitude, magnitude)

    return {tensor.name: values(tensor) for tensor in tensors}


def _values(
    random: np.random.Generator,
    datatype: str,
    shape: tuple[int, ...],
    cells: int | None,
    below: int,
    lowest: float,
    greatest: float,
) -> Array:
    """Integers are in [0, below), floats in [lowest, greatest]."""
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        return np.full(shape, b"text", dtype)
    drawn = shape if cells is None else tuple(min(size, cells) for size in shape)
    if dtype.kind == "f":
        limit = float(np.finfo(dtype).max) / 8
        values = np.asarray(random.uniform(max(lowest, -limit), min(greatest, limit), drawn), dtype)
    else:
        most = {"UINT8": 255, "BOOL": 1}.get(datatype) or min(below - 1, np.iinfo(dtype).max)
        values = np.asarray(random.integers(0, most, drawn, endpoint=True), dtype)
    for axis, size in enumerate(shape):
        values = np.take(values, np.arange(size) * values.shape[axis] // max(1, size), axis=axis)
    return np.asarray(values, order="C")


def _shape(tensor: Tensor, size: int) -> tuple[int, ...]:
    """One sample; the sizes after the first dimension are those of the try."""
    return tuple(dim if isinstance(dim, int) else size if axis else 1 for axis, dim in enumerate(_dims(tensor)))


def _dims(tensor: Tensor) -> tuple[int | str, ...]:
    """The dimensions; a list of any length if no shape is declared."""
    return ("",) if tensor.dims is None else tensor.dims


def _vocabulary(spec: TensorSpec) -> int:
    """The number of tokens or labels of an encoder; 0 if it has none."""
    if spec.encoder is None:
        return 0
    labels, size = spec.encoder.state.get("labels"), spec.encoder.params.get("vocabulary")
    if isinstance(labels, list):
        return len(labels)
    return size if isinstance(size, int) and 0 < size < 1 << 31 else 0
