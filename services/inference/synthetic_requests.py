"""Synthetic requests for versions without probes, generated from the inputs that the graph declares.

Which values a model accepts is unknown. Several attempts are therefore made, with different sizes for dynamic
dimensions and different upper bounds for integers, which may be tokens. Each attempt has several kinds of requests:
in some, values are small; in others, values exceed any quantized range, because 8-bit sums saturate where activations
are large. Values are constant, patchy or noisy, because sums are largest where neighbouring values are alike. UINT8
inputs get values from 0 to 255. An input whose vocabulary size is known gets valid tokens.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import overload

import numpy as np

from deepseek.models.datatypes import DTYPES
from deepseek.models.manifest import TensorSpec
from services.inference.engine import Array, Tensor

_CELLS = (1, 8, None)
"""Number of distinct values along each axis; None means that every position has its own."""
_MAGNITUDES = (255.0, 1.0, 1e9, 32767.0)
_KINDS = tuple(product(_CELLS, _MAGNITUDES))
NUM_KINDS = len(_KINDS)
"""Number of kinds of requests. Requests whose indices differ by a multiple of NUM_KINDS are of the same kind."""
NUM_REQUESTS = 2 * NUM_KINDS
Request = dict[str, Array]
_SIZES = (8, 64, 224, 1)
_INTEGERS_BELOW = (1 << 15, 100, 2)
_MAX_ELEMENTS = 1 << 22


def make_requests(tensors: Sequence[Tensor], specs: Sequence[TensorSpec]) -> Iterator[Sequence[Request]]:
    """Yields attempts, the most promising first.

    An attempt is a sequence of requests. Each request is created when it is accessed.

    Args:
        tensors: The graph's inputs.
        specs: Inputs as described in the manifest. An input's encoder may determine its vocabulary size.
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
        shapes: Shape of each input, by name.
        bounds: Vocabulary size of each input, by name; 0 if the input's encoder does not determine it.
        below: Exclusive upper bound of the integers in inputs without a known vocabulary size.
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
        # Tokens of a known vocabulary are always noisy: constant ones reveal nothing, and patches suit only pixels and
        # numbers.
        drawn = None if bounds.get(tensor.name) else cells
        # The first requests of each kind have no negative values, because some quantized inputs clip those to 0.
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
    """Returns random values: floats in [lowest, greatest], and integers in [0, below).

    UINT8 and BOOL values cover the full range of their type instead. BYTES values are all the same text.
    """
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
    """Returns the shape of a single sample. A dynamic dimension gets the given size, or 1 if it is the first."""
    return tuple(dim if isinstance(dim, int) else size if axis else 1 for axis, dim in enumerate(_dims(tensor)))


def _dims(tensor: Tensor) -> tuple[int | str, ...]:
    """Returns the dimensions of a tensor. A tensor without a declared shape gets one dimension of variable size."""
    return ("",) if tensor.dims is None else tensor.dims


def _vocabulary(spec: TensorSpec) -> int:
    """Returns how many labels or tokens the input's encoder knows; 0 if the manifest does not say."""
    if spec.encoder is None:
        return 0
    labels, size = spec.encoder.state.get("labels"), spec.encoder.params.get("vocabulary")
    if isinstance(labels, list):
        return len(labels)
    return size if isinstance(size, int) and 0 < size < 1 << 31 else 0
