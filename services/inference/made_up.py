"""Requests made up from what a graph declares, for versions that carry no probes.

Nobody knows what the model expects, so there are several tries: sizes for dimensions that vary, and a bound for
integers, which may be tokens. The values are those of the datatype: pixels 0 to 255, tokens of the vocabulary where an
encoder names one, numbers of a normal distribution. A third of the requests is noise, a third patches, a third one
value all over: 8-bit sums are greatest where neighbours are alike.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from deepseek.models.manifest import TensorSpec
from services.inference.engine import DTYPES, Array, Tensor

NUM_REQUESTS = 24
_SIZES = (8, 64, 224, 1)
_INTEGERS_BELOW = (100, 2)
_CELLS = (None, 8, 1)
_MAX_ELEMENTS = 1 << 22


def make_requests(tensors: Sequence[Tensor], specs: Sequence[TensorSpec]) -> Iterator[list[dict[str, Array]]]:
    """Yields tries, each a list of requests; most likely ones first.

    Args:
        tensors: The graph's inputs.
        specs: The manifest's, whose encoders know how many tokens there are.
    """
    bounds = {spec.name: _vocabulary(spec) for spec in specs}
    varies = any(isinstance(dim, str) for tensor in tensors for dim in _dims(tensor)[1:])
    guesses = any(tensor.datatype.startswith(("INT", "UINT")) and not bounds.get(tensor.name) for tensor in tensors)
    for size, below in product(_SIZES if varies else _SIZES[:1], _INTEGERS_BELOW if guesses else _INTEGERS_BELOW[:1]):
        shapes = {tensor.name: _shape(tensor, size) for tensor in tensors}
        if all(math.prod(shape) <= _MAX_ELEMENTS for shape in shapes.values()):
            yield [_request(tensors, shapes, bounds, below, number) for number in range(NUM_REQUESTS)]


def _request(
    tensors: Sequence[Tensor], shapes: Mapping[str, tuple[int, ...]], bounds: Mapping[str, int], below: int, number: int
) -> dict[str, Array]:
    random = np.random.default_rng(number)
    cells = _CELLS[number % len(_CELLS)]
    return {
        tensor.name: _values(random, tensor.datatype, shapes[tensor.name], bounds.get(tensor.name) or below, cells)
        for tensor in tensors
    }


def _values(random: np.random.Generator, datatype: str, shape: tuple[int, ...], below: int, cells: int | None) -> Array:
    dtype = DTYPES[datatype]
    # Tokens that are all alike say nothing; patches are for pixels and numbers.
    drawn = shape if cells is None or datatype.startswith("INT") else tuple(min(size, cells) for size in shape)
    if datatype == "BYTES":
        return np.full(shape, b"text", dtype)
    if dtype.kind == "f":
        values = np.asarray(random.normal(size=drawn), dtype)
    else:
        greatest = {"UINT8": 255, "BOOL": 1}.get(datatype) or min(below - 1, np.iinfo(dtype).max)
        values = np.asarray(random.integers(0, greatest, drawn, endpoint=True), dtype)
    for axis, size in enumerate(shape):
        values = np.take(values, np.arange(size) * values.shape[axis] // max(1, size), axis=axis)
    return np.asarray(values, order="C")


def _shape(tensor: Tensor, size: int) -> tuple[int, ...]:
    """One sample; sizes after the first dimension as they are tried."""
    return tuple(dim if isinstance(dim, int) else size if axis else 1 for axis, dim in enumerate(_dims(tensor)))


def _dims(tensor: Tensor) -> tuple[int | str, ...]:
    """The dimensions; a list of any length where nothing is declared."""
    return ("",) if tensor.dims is None else tensor.dims


def _vocabulary(spec: TensorSpec) -> int:
    """How many tokens or labels an encoder tells apart; 0 if it makes none."""
    if spec.encoder is None:
        return 0
    labels, size = spec.encoder.state.get("labels"), spec.encoder.params.get("vocabulary")
    if isinstance(labels, list):
        return len(labels)
    return size if isinstance(size, int) and 0 < size < 1 << 31 else 0
