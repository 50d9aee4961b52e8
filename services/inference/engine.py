"""One ONNX model on ONNX Runtime: its inputs and outputs, strict checks, and inference on numpy arrays.

One session serves all threads (`InferenceSession.run` is thread-safe and releases the GIL). A request runs in its
caller's thread; by default, operators use no other threads. Idle threads do not spin: other requests need the cores.

Inputs are checked before the graph runs, so that errors name the invalid field. Dimensions with the same name must have
the same size, unless a model converter generated the name as a placeholder. `repository` handles versions.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors

from common.errors import FailedPrecondition, Internal, InvalidArgument, MeshError, ResourceExhausted
from deepseek.models.datatypes import DATATYPES, DTYPES, ONNX_DATATYPES
from deepseek.models.runtime_errors import LOAD_ERRORS, load_message, runtime_message
from deepseek.models.runtime_options import session_options
from services.inference.onnx_file import PRODUCTS, names_any, names_without_shape

Array = npt.NDArray[Any]

RUNTIME = f"onnxruntime {onnxruntime.__version__}"
"""Name and version of the runtime."""
Mode = Literal["fast", "exact", "plain"]
"""Modes of computation, from fastest to slowest. `fast` uses all optimizations. `exact` does too, but keeps 8-bit
products from saturating, except in QLinear operators. `plain` uses none, and computes QDQ and QLinear operators in
float32."""

_HOW_TO_CONVERT = {
    "seq": "convert the model so that it returns tensors, e.g. scikit-learn's with options={'zipmap': False}",
    "map": "convert the model so that it takes and returns tensors, e.g. scikit-learn's with options={'zipmap': False}",
    "optional": "convert the model so that it takes and returns tensors",
    "tensor": "cast it inside the model, e.g. to float or float16",
}
_PLACEHOLDER = re.compile(
    r"\W*|-1|none|null|nan|any|(unk|unknown|dynamic|dynamicdimension|unspecified)[._]*\d*", re.IGNORECASE
)
"""Names that model converters give to unknown dimensions. Two dimensions that share such a name may differ in size."""

# The providers are explicit because, by default, the GPU build of ONNX Runtime tries CUDA first. Without a GPU, that
# attempt logs errors.
_PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
_OUT_OF_MEMORY = ("failed to allocate", "bad_alloc", "bad allocation", "out of memory")
_DEVICE_FAILED = ("cuda failure", "cudnn failure", "cublas failure")
_RUN_ERRORS = (
    MemoryError,
    onnxruntime_errors.EPFail,
    onnxruntime_errors.Fail,
    onnxruntime_errors.InvalidArgument,
    onnxruntime_errors.NotImplemented,
    onnxruntime_errors.RuntimeException,
)


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph.

    Attributes:
        name: Name in the graph.
        datatype: Name of the datatype in the Open Inference Protocol, e.g. `FP32`.
        dims: For each dimension, its size or, if the size varies, its name, which may be empty. None if the graph
            declares no shape; any rank is then accepted.
    """

    name: str
    datatype: str
    dims: tuple[int | str, ...] | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each dimension, or -1 if the size varies.

        If the rank is unknown, the shape is (-1,), because the protocol cannot express an unknown rank.
        """
        return (-1,) if self.dims is None else tuple(-1 if isinstance(dim, str) else dim for dim in self.dims)


class Engine:
    """A loaded model. Thread-safe; its memory is freed when the last reference to the engine is gone.

    Args:
        path: ONNX file; may be deleted once the engine has been created.
        mode: Mode of computation (see `Mode`).
        device: `cpu` or `cuda`.
        intra_op_threads: Number of threads per operator.

    Raises:
        FailedPrecondition: MODEL_BROKEN if the file is not an ONNX model or cannot run on this host;
            UNSUPPORTED_DATATYPE if an input or output has a type without a numpy equivalent; DEVICE_UNAVAILABLE if the
            device cannot be used on this host.
    """

    def __init__(self, path: Path, mode: Mode = "fast", *, device: str = "cpu", intra_op_threads: int = 1) -> None:
        options = session_options(intra_op_threads)
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_DISABLE_ALL if mode == "plain" else levels.ORT_ENABLE_ALL
        if mode == "exact":
            options.add_session_config_entry("session.x64quantprecision", "1")
        model: Path | bytes = path
        if mode == "plain" and names_any(path, PRODUCTS):
            from services.inference.qlinear import expanded_model  # imports onnx, which few models need

            model = expanded_model(path)
        try:
            session = onnxruntime.InferenceSession(model, options, providers=_PROVIDERS[device])
        except LOAD_ERRORS as error:
            raise FailedPrecondition("MODEL_BROKEN", f"the model cannot be loaded: {load_message(error)}") from error
        if session.get_providers()[0] != _PROVIDERS[device][0]:
            raise FailedPrecondition(
                "DEVICE_UNAVAILABLE", f"ONNX Runtime cannot use {device!r} on this machine; set `device` to `cpu`"
            )
        self._session = session
        try:
            shapeless = names_without_shape(path)
        except ValueError as error:
            raise FailedPrecondition("MODEL_BROKEN", f"the model is not a valid ONNX file: {error}") from error
        self.inputs = tuple(_tensor(node, shapeless) for node in session.get_inputs())
        self.outputs = tuple(_tensor(node, shapeless) for node in session.get_outputs())
        # Initializers that the graph lists as inputs are optional inputs. Their values are the defaults.
        optional = [_tensor(node, shapeless) for node in session.get_overridable_initializers()]
        self._inputs = {tensor.name: (tensor, DTYPES[tensor.datatype]) for tensor in (*self.inputs, *optional)}
        self._has_strings = any(tensor.datatype == "BYTES" for tensor in (*self.inputs, *self.outputs))
        self._output_names = [tensor.name for tensor in self.outputs]

    def run(self, arrays: Mapping[str, Array], outputs: Sequence[str] = ()) -> list[tuple[str, Array]]:
        """Runs the model once.

        Args:
            arrays: Arrays of all inputs, by name, in the order of the caller's request. They are neither modified nor
                retained. Initializers that the graph lists as inputs may be omitted.
            outputs: Names of the requested outputs; empty means all.

        Returns:
            Name and array of each output, in the requested order.

        Raises:
            InvalidArgument: BAD_INPUT. If one input or output is invalid, the error's field names it, e.g.
                `inputs[0].shape`.
            ResourceExhausted: OUT_OF_MEMORY.
            FailedPrecondition: MODEL_BROKEN if the runtime does not implement an operator for these inputs.
            Internal: DEVICE_FAILED.
        """
        self._check(arrays)
        names = self._output_names
        if outputs:
            names = list(outputs)
            self._check_outputs(names)
        feeds = _to_text(arrays) if self._has_strings else arrays
        try:
            results = self._session.run(names, feeds)
        except _RUN_ERRORS as error:
            raise _run_error(error) from error
        if self._has_strings:
            results = [_to_bytes(array) for array in results]
        return list(zip(names, results, strict=True))

    def _check(self, arrays: Mapping[str, Array]) -> None:
        sizes: dict[str, tuple[int, str]] = {}
        for index, (name, array) in enumerate(arrays.items()):
            if name not in self._inputs:
                known = ", ".join(repr(known) for known in self._inputs)
                raise _bad(f"the model has no input {name!r}; its inputs are {known}", f"inputs[{index}].name")
            tensor, dtype = self._inputs[name]
            if array.dtype != dtype:
                given = DATATYPES[array.dtype]
                raise _bad(
                    f"input {name!r} is {given}; the model expects {tensor.datatype}", f"inputs[{index}].datatype"
                )
            if tensor.dims is None:
                continue
            if len(array.shape) != len(tensor.dims):
                raise _shape_mismatch(tensor, array, index)
            for axis, (size, dim) in enumerate(zip(array.shape, tensor.dims, strict=True)):
                if isinstance(dim, int):
                    if size != dim:
                        raise _shape_mismatch(tensor, array, index)
                elif dim:
                    same, where = sizes.setdefault(dim, (size, f"dimension {axis} of {name!r}"))
                    if same != size:
                        what = f"dimension {axis} of {name!r} is {size} and {where} is {same}; they must be equal"
                        raise _bad(what, f"inputs[{index}].shape")
        if missing := [tensor.name for tensor in self.inputs if tensor.name not in arrays]:
            raise _bad(f"input {missing[0]!r} is missing", "inputs")

    def _check_outputs(self, names: Sequence[str]) -> None:
        for index, name in enumerate(names):
            if name not in self._output_names:
                known = ", ".join(repr(known) for known in self._output_names)
                raise _bad(f"the model has no output {name!r}; its outputs are {known}", f"outputs[{index}].name")
            if name in names[:index]:
                raise _bad(f"output {name!r} is requested twice; request each output once", f"outputs[{index}].name")


def _tensor(node: onnxruntime.NodeArg, shapeless: Collection[str]) -> Tensor:
    if node.type not in ONNX_DATATYPES:
        how = _HOW_TO_CONVERT.get(node.type.partition("(")[0], _HOW_TO_CONVERT["tensor"])
        message = f"{node.name!r} has the type {node.type}: {how}. This server supports {', '.join(ONNX_DATATYPES)}"
        raise FailedPrecondition("UNSUPPORTED_DATATYPE", message)
    if not node.shape and node.name in shapeless:
        return Tensor(node.name, ONNX_DATATYPES[node.type], None)
    return Tensor(node.name, ONNX_DATATYPES[node.type], tuple(map(_dim, node.shape)))


def _dim(dim: int | str | None) -> int | str:
    if isinstance(dim, int) and dim >= 0:
        return dim
    name = str(dim or "")
    return "" if _PLACEHOLDER.fullmatch(name) else name


def _to_text(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Converts BYTES arrays to arrays of `str`, because ONNX strings are UTF-8 text."""
    feeds = dict(arrays)
    for index, (name, array) in enumerate(arrays.items()):
        if array.dtype == np.object_:
            text = np.empty(array.shape, np.object_)
            try:
                text.reshape(-1)[:] = [element.decode() for element in array.flat]
            except UnicodeDecodeError as error:
                raise _bad(
                    f"input {name!r} contains a string that is not UTF-8; ONNX requires UTF-8", f"inputs[{index}]"
                ) from error
            feeds[name] = text
    return feeds


def _to_bytes(array: Array) -> Array:
    if array.dtype != np.object_:
        return array
    encoded = np.empty(array.shape, np.object_)
    encoded.reshape(-1)[:] = [element.encode() for element in array.flat]
    return encoded


def _shape_mismatch(tensor: Tensor, array: Array, index: int) -> InvalidArgument:
    given, wanted = list(array.shape), list(tensor.shape)
    return _bad(
        f"input {tensor.name!r} has the shape {given}; the model expects {wanted} (-1 means any size)",
        f"inputs[{index}].shape",
    )


def _bad(message: str, field: str) -> InvalidArgument:
    return InvalidArgument("BAD_INPUT", message, field=field)


def _run_error(error: Exception) -> MeshError:
    """Converts an error of ONNX Runtime.

    The error's message is examined, because its class is often ambiguous: `Fail` may mean bad shapes or lack of memory.
    """
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY):
        return ResourceExhausted(
            "OUT_OF_MEMORY", "not enough memory to run the model on this request; send smaller inputs"
        )
    if isinstance(error, onnxruntime_errors.EPFail) or any(words in text for words in _DEVICE_FAILED):
        return Internal("DEVICE_FAILED", f"the device failed while it ran the model: {runtime_message(error)}")
    if isinstance(error, onnxruntime_errors.NotImplemented):
        return FailedPrecondition("MODEL_BROKEN", f"the model does not run here: {runtime_message(error)}")
    return InvalidArgument(
        "BAD_INPUT", f"the model does not run on these inputs: {runtime_message(error)}", field="inputs"
    )
