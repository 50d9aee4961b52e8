"""Runs requests on an imported model: one of batch size 1, and one of another size.

Which values and sizes a model accepts is unknown, so several requests are tried. Dimensions with the same name get the
same size. The batch is the first axis of each input or, if that fails, the first axis of variable size: the state of a
recurrent model often has the batch second.
"""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from common.errors import InvalidArgument
from deepseek.models.batch_size import fixed_batch_size
from deepseek.models.datatypes import DTYPES, ONNX_DATATYPES
from deepseek.models.runtime_errors import LOAD_ERRORS, runtime_message

OTHER_BATCH_SIZE = 3
_SIZES = (8, 64, 224, 512, 1, 4096)
_INTEGERS_BELOW = (2, 1, 100)
_MAX_ELEMENTS = 1 << 24
_RUN_ERRORS = (*LOAD_ERRORS, MemoryError, ValueError)
_Request = dict[str, npt.NDArray[Any]]


def try_requests(session: ort.InferenceSession, example: Path | None) -> tuple[tuple[int, ...], list[str]]:
    """Runs a request of batch size 1 and one of another size.

    Args:
        session: Session of the model.
        example: An .npz file with an array for each input, which holds one sample; None to generate requests.

    Returns:
        sizes: Batch sizes of the requests that the model answered.
        remarks: A sentence if the model does not accept another batch size.

    Raises:
        InvalidArgument: BAD_MODEL if the model answers no request of batch size 1; BAD_VALUE if the example does not
            fit the model.
    """
    given = None if example is None else _read(session, example)
    inputs, first, problem = session.get_inputs(), "", ""
    for axes, size, below in _attempts(inputs) if given is None else [(axes, 0, 0) for axes in _batch_axes(inputs)]:

        def request(
            batch: int, axes: Mapping[str, int | None] = axes, size: int = size, below: int = below
        ) -> _Request | None:
            return _repeated(given, axes, batch) if given else _generated(inputs, axes, batch, size, below)

        if error := _run(session, request(1)):
            first = first or error
            continue
        if all(axis is None for axis in axes.values()):
            if size := fixed_batch_size(*(list(map(shape_of, one)) for one in (inputs, session.get_outputs()))):
                return (size,), [f"the model has the fixed batch size {size}; requests of other sizes are refused"]
            return (1,), ["the model's inputs have fixed shapes; requests of other shapes are refused"]
        if not (error := _run(session, request(OTHER_BATCH_SIZE))):
            return (1, OTHER_BATCH_SIZE), []
        problem = problem or error
    if problem:
        text = f"the model answers single samples only; a request of {OTHER_BATCH_SIZE} samples failed: {problem[:300]}"
        return (1,), [text]
    what = "the example" if example else "any generated request"
    message = (
        f"the model does not answer {what}: {first[:500]}. Send one sample that it accepts, with --example FILE.npz"
    )
    raise InvalidArgument("BAD_MODEL", message, field="example" if example else "file")


def shape_of(node: Any) -> tuple[int, ...]:
    """Returns the shape of an input or output of a session; -1 is an axis that varies."""
    return tuple(-1 if _varies(dim) else dim for dim in node.shape)


def _batch_axes(inputs: list[Any]) -> list[dict[str, int | None]]:
    """Returns the guesses which axis of each input is the batch; None for an input without a batch axis."""
    first = {node.name: 0 if node.shape and _varies(node.shape[0]) else None for node in inputs}
    if all(axis is None for axis in first.values()):
        return [first]
    varying = {node.name: next((axis for axis, dim in enumerate(node.shape) if _varies(dim)), None) for node in inputs}
    return [first, varying] if varying != first else [first]


def _attempts(inputs: list[Any]) -> Iterator[tuple[Mapping[str, int | None], int, int]]:
    """Yields guesses of the batch axes, the other variable sizes and the limit of integers, the likeliest first."""
    varies = any(_varies(dim) for node in inputs for dim in node.shape[1:])
    below = _INTEGERS_BELOW if any("int" in node.type for node in inputs) else _INTEGERS_BELOW[:1]
    for size, limit, axes in product(_SIZES if varies else _SIZES[:1], below, _batch_axes(inputs)):
        yield axes, size, limit


def _generated(inputs: list[Any], axes: Mapping[str, int | None], batch: int, size: int, below: int) -> _Request | None:
    """Returns a request; None if it would be too large."""
    batch_names = {
        node.shape[axis] for node in inputs if (axis := axes[node.name]) is not None and _is_name(node.shape[axis])
    }
    random = np.random.default_rng(0)
    request = {}
    for node in inputs:
        shape = [
            dim if not _varies(dim) else batch if axis == axes[node.name] or dim in batch_names else size
            for axis, dim in enumerate(node.shape)
        ]
        if np.prod(shape, dtype=float) > _MAX_ELEMENTS:
            return None
        dtype = DTYPES[ONNX_DATATYPES[node.type]]
        if dtype.kind == "O":
            request[node.name] = np.full(shape, "text", dtype)
        elif dtype.kind == "f":
            request[node.name] = np.asarray(random.random(shape), dtype)
        else:
            request[node.name] = np.asarray(random.integers(0, below, shape) if below > 1 else np.ones(shape), dtype)
    return request


def _repeated(given: _Request, axes: Mapping[str, int | None], batch: int) -> _Request:
    return {
        name: array if (axis := axes[name]) is None else np.repeat(array, batch, axis) for name, array in given.items()
    }


def _read(session: ort.InferenceSession, example: Path) -> _Request:
    """Reads an untrusted example."""
    try:
        with example.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array, as in a .npy file")
            given = {name: archive[name] for name in archive.files}
    # NumPy passes on what zipfile and zlib raise, e.g. RuntimeError for an encrypted file.
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        message = f"the example is not an .npz file of arrays: {error}"
        raise InvalidArgument("BAD_VALUE", message, field="example") from error
    names = [node.name for node in session.get_inputs()]
    if sorted(given) != sorted(names):
        message = f"the example has the arrays {sorted(given)}; the model's inputs are {names}"
        raise InvalidArgument("BAD_VALUE", message, field="example")
    for name, array in given.items():
        if array.dtype.kind not in "biufSU":
            message = f"the array {name!r} of the example has the type {array.dtype}; send numbers or text"
            raise InvalidArgument("BAD_VALUE", message, field="example")
    for node in session.get_inputs():
        if node.shape and given[node.name].ndim != len(node.shape):
            message = (
                f"the array {node.name!r} of the example has {given[node.name].ndim} axes; the model's input has "
                f"{len(node.shape)}: {node.shape}, batch included"
            )
            raise InvalidArgument("BAD_VALUE", message, field="example")
    return {name: array.astype(object) if array.dtype.kind in "SU" else array for name, array in given.items()}


def _run(session: ort.InferenceSession, request: _Request | None) -> str:
    """Runs a request, and returns why it failed; empty if it did not."""
    if request is None:
        return "its inputs are too large"
    try:
        session.run(None, request)
    except _RUN_ERRORS as error:
        return runtime_message(error) or str(error)
    return ""


def _varies(dim: Any) -> bool:
    return not isinstance(dim, int) or dim < 0


def _is_name(dim: Any) -> bool:
    return isinstance(dim, str) and dim not in ("", "?", "unk", "None")
