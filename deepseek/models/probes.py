"""Probes: sample requests that are stored with a model version, and the expected outputs for these requests.

A file of a model version may produce different outputs on another processor, because sums of 8-bit products saturate on
some processors. A version therefore contains requests built from the evaluation split, and the float32 file's outputs
for these requests, computed without graph optimizations. Before a server serves a file, it compares the file's outputs
with the stored ones. Probes are stored as an uncompressed .npz archive of the arrays `inputs/<name>` and
`outputs/<name>`, whose first axis is the index of the probe. Archives are untrusted. This module does not import torch.
"""

import io
import math
import tokenize
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument

MEDIA_TYPE = "application/vnd.deepseek.probes.v1+npz"
"""Media type of a probe set."""
MAX_BYTES = 16 << 20
"""Maximum size of a probe set, in bytes."""
MAX_PROBES = 1024
"""Maximum number of probes; all of them are run each time a model is loaded."""
_MAX_ARRAYS = 1024
_MAX_RESOLUTION = 0.02
_KINDS = "biuf"
_MAX_ITEM_BYTES = 8
_UNREADABLE = (zipfile.BadZipFile, ValueError, EOFError, RuntimeError, SyntaxError, tokenize.TokenError)
"""Errors that zipfile and NumPy raise for bytes that are not an archive of arrays.

RuntimeError includes NotImplementedError.
"""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Probes:
    """Requests and their expected outputs.

    Attributes:
        inputs: For each input, the tensors of all requests, stacked along the first axis.
        outputs: For each output, its expected values for all requests, stacked in the same order.
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def requests(self) -> Iterator[dict[str, Array]]:
        """Yields the requests, each in the form that the model accepts."""
        for index in range(len(self)):
            yield {name: array[index] for name, array in self.inputs.items()}

    def disagreement(self, run: Callable[[dict[str, Array]], Sequence[Array]], classes: Collection[str]) -> float:
        """Runs every request, and compares the outputs with the expected ones.

        Args:
            run: Function that runs a request and returns one array per output, in the order of `outputs`.
            classes: Names of the outputs whose last axis holds class scores.

        Returns:
            The greatest disagreement of any output, as computed by the function `disagreement`.
        """
        answers = [run(request) for request in self.requests()]
        found = zip(self.outputs.items(), zip(*answers, strict=True), strict=True)
        return max(
            disagreement(expected, np.stack(given), classes=name in classes)
            if all(array.shape == expected.shape[1:] for array in given)
            else 1.0
            for (name, expected), given in found
        )

    def tolerance(self, accepted_loss: float) -> float:
        """Returns by how much the disagreement on another host may exceed that on the exporting host.

        This is the accepted loss plus the effect of a single wrong probe: one divided by the number of probes, but at
        most 0.02.
        """
        return accepted_loss + min(1 / len(self), _MAX_RESOLUTION)

    def to_bytes(self) -> bytes:
        """Serializes the probes; equal probes give equal bytes."""
        arrays = {f"inputs/{name}": array for name, array in self.inputs.items()}
        arrays |= {f"outputs/{name}": array for name, array in self.outputs.items()}
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Probes":
        """Reads untrusted probes. Nothing is unpickled, and a false size in a header allocates no memory.

        Raises:
            InvalidArgument: BAD_PROBES; the message describes the defect.
        """
        if len(data) > MAX_BYTES:
            _fail(f"they have {len(data)} bytes; at most {MAX_BYTES} are read")
        groups: dict[str, dict[str, Array]] = {"inputs": {}, "outputs": {}}
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = archive.infolist()
                if len(members) > _MAX_ARRAYS or sum(member.file_size for member in members) > len(data):
                    _fail(f"they have {len(members)} arrays, which overlap or exceed the limit of {_MAX_ARRAYS}")
                for member in members:
                    group, _, name = member.filename.removesuffix(".npy").partition("/")
                    if group not in groups or not name or name in groups[group]:
                        _fail(f"they contain the unknown or repeated file {member.filename[:80]!r}")
                    if member.compress_type != zipfile.ZIP_STORED:
                        _fail(f"{member.filename[:80]!r} is compressed")
                    groups[group][name] = _read_array(archive.read(member), member.filename)
        except _UNREADABLE as error:
            _fail(f"they are not an .npz archive of arrays: {str(error)[:200]}")
        arrays = [*groups["inputs"].values(), *groups["outputs"].values()]
        if not groups["inputs"] or not groups["outputs"]:
            _fail(f"they have {len(groups['inputs'])} inputs and {len(groups['outputs'])} outputs; both are needed")
        if any(array.ndim == 0 or len(array) == 0 for array in arrays) or len({len(array) for array in arrays}) != 1:
            _fail("their arrays differ in the number of probes, or have none")
        if len(arrays[0]) > MAX_PROBES:
            _fail(f"there are {len(arrays[0])} probes; at most {MAX_PROBES} are read")
        return cls(groups["inputs"], groups["outputs"])


def disagreement(expected: Array, found: Array, *, classes: bool = False) -> float:
    """Returns how much an output differs from the expected one, from 0 (not at all) to 1.

    Args:
        expected: Expected output.
        found: Output to compare.
        classes: Whether the last axis holds class scores.

    Returns:
        For class scores, the share of rows in which `found` has a different best class than `expected`. A row counts
        as equal if, in `expected`, the scores of the two classes differ by at most a thousandth of the standard
        deviation of `expected`. For other floating-point outputs, the root mean square of the differences, divided by
        the standard deviation of `expected` and limited to 1. For other types, the share of elements that differ. The
        result is 1 if the shapes differ, or if a float is finite in only one of the two outputs.

    >>> disagreement(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0.1, 0.9], [0.4, 0.6]]), classes=True)
    0.5
    >>> disagreement(np.array([0.0, 2.0]), np.array([0.5, 2.5]))
    0.5
    """
    if expected.shape != found.shape:
        return 1.0
    if expected.size == 0:
        return 0.0
    if expected.dtype.kind != "f" or found.dtype.kind != "f":
        return float(np.mean(expected != found))
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(found)):
        return 1.0
    right, given = expected.astype(np.float64), found.astype(np.float64)
    scale = float(right[finite].std() if finite.any() else 0.0)
    if classes:
        rows, chosen = right.reshape(-1, right.shape[-1]), given.reshape(-1, right.shape[-1]).argmax(-1)
        return float(np.mean(rows.max(-1) - rows[np.arange(len(rows)), chosen] > 1e-3 * scale))
    error = float(np.sqrt(np.mean((right[finite] - given[finite]) ** 2))) if finite.any() else 0.0
    # If all expected values are equal, their standard deviation is zero.
    return min(1.0, error / (scale or float(np.abs(right[finite]).max(initial=0.0)) or 1.0))


def _read_array(data: bytes, name: str) -> Array:
    """Reads an .npy file, and checks that the length of its data matches its header."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        _fail(f"{name[:80]!r} has an unknown version")
    shape, fortran_order, dtype = read(file)
    start = file.tell()
    plain = dtype.kind in _KINDS and dtype.itemsize <= _MAX_ITEM_BYTES and dtype.isnative and not fortran_order
    if not plain or math.prod(shape) * dtype.itemsize != len(data) - start:
        _fail(f"{name[:80]!r} is not a plain array of numbers")
    return np.frombuffer(data, dtype, offset=start).reshape(shape)


def _fail(problem: str) -> NoReturn:
    raise InvalidArgument("BAD_PROBES", f"the model's probes cannot be used: {problem}", field="probes")
