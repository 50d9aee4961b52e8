"""One ONNX model on ONNX Runtime: what it takes and gives, strict checks, and running it on numpy arrays.

One session serves all threads (`InferenceSession.run` is thread-safe and lets go of the GIL). A request runs in its own
thread: one thread an operator by default, and none that spins while it waits, since cores are shared. The execution
provider is named, for the GPU build of ONNX Runtime would try CUDA first everywhere and log errors where there is none.

Inputs are checked against the graph before it runs, so that errors name the wrong field; dimensions with the same name
must have the same size, unless the name is a placeholder of a converter. Not here: protobuf, versions.
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
from common.paths import without_paths
from services.inference.onnx_file import PRODUCTS, names_any, names_without_shape

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
"""numpy's type of each datatype of the protocol; BYTES elements are `bytes`. numpy has no BF16."""

_DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}
_ONNX_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
RUNTIME = f"onnxruntime {onnxruntime.__version__}"
"""The runtime and its version."""
Mode = Literal["fast", "exact", "plain"]
"""How the runtime computes: `fast`, with all optimisations; `exact`, with 8-bit products that saturate on no processor;
`plain`, operator by operator as in the file, 8-bit tensors as float32. Each mode is slower than the one before."""

_HOW_TO_CONVERT = {
    "seq": "convert the model so that it returns tensors, e.g. scikit-learn's with options={'zipmap': False}",
    "map": "convert the model so that it takes and returns tensors, e.g. scikit-learn's with options={'zipmap': False}",
    "optional": "convert the model so that it takes and returns tensors",
    "tensor": "cast it inside the model, e.g. to float or float16",
}
_PLACEHOLDER = re.compile(
    r"\W*|-1|none|null|nan|any|(unk|unknown|dynamic|dynamicdimension|unspecified)[._]*\d*", re.IGNORECASE
)
"""Names that converters give to unknown dimensions: two dimensions with such a name may differ in size."""

_IR_VERSION = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_OPSET = re.compile(r"Opset (\d+) is under development.*support for domain (\S+) is till opset (\d+)", re.DOTALL)
_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_PLACE = re.compile(r"Load model from .*? failed:|\S+\.(cc|h|cpp|cu|cuh):\d+ (\S+( \S+)?\([^()]*\)|\w+) ")
"""The path of the loaded file and the position in the runtime's sources, which do not help callers."""

_PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
_LOAD_ERRORS = tuple(
    getattr(onnxruntime_errors, name)
    for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
)
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
        name: Its name in the graph.
        datatype: The protocol's name of its type.
        dims: For each dimension its size, or its name if it varies (empty if it has none); None if the graph declares
            no shape, so any rank is accepted.
    """

    name: str
    datatype: str
    dims: tuple[int | str, ...] | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes, -1 where they vary. The protocol cannot express an unknown rank; it is shown as one -1."""
        return (-1,) if self.dims is None else tuple(-1 if isinstance(dim, str) else dim for dim in self.dims)


class Engine:
    """A loaded model. Safe to share between threads; its memory is freed with the last reference.

    Args:
        path: An ONNX file; not needed any more once this returns.
        mode: How the runtime computes.
        device: `cpu` or `cuda`.
        intra_op_threads: Threads an operator may use.

    Raises:
        FailedPrecondition: MODEL_BROKEN if it is no ONNX model that runs here, UNSUPPORTED_DATATYPE if an input or
            output has no datatype in numpy, DEVICE_UNAVAILABLE if the device does not work here.
    """

    def __init__(self, path: Path, mode: Mode = "fast", *, device: str = "cpu", intra_op_threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = intra_op_threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_DISABLE_ALL if mode == "plain" else levels.ORT_ENABLE_ALL
        if mode == "exact":
            options.add_session_config_entry("session.x64quantprecision", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # a bad input is told to its caller, not written to the log
        model: Path | bytes = path
        if mode == "plain" and names_any(path, PRODUCTS):
            from services.inference.qlinear import written_out  # imports onnx, which only few models need

            model = written_out(path)
        try:
            session = onnxruntime.InferenceSession(model, options, providers=_PROVIDERS[device])
        except _LOAD_ERRORS as error:
            raise FailedPrecondition("MODEL_BROKEN", f"the model cannot be loaded: {_load_message(error)}") from error
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
        # Initializers that the graph lists as inputs: their values are the defaults.
        optional = [_tensor(node, shapeless) for node in session.get_overridable_initializers()]
        self._inputs = {tensor.name: (tensor, DTYPES[tensor.datatype]) for tensor in (*self.inputs, *optional)}
        self._has_strings = any(tensor.datatype == "BYTES" for tensor in (*self.inputs, *self.outputs))
        self._output_names = [tensor.name for tensor in self.outputs]

    def run(self, arrays: Mapping[str, Array], outputs: Sequence[str] = ()) -> list[tuple[str, Array]]:
        """Run the model once.

        Args:
            arrays: Every input by name, in the caller's order; only read, and not kept. An initializer that the graph
                lists as an input is optional.
            outputs: Names of the outputs that are wanted; empty means all.

        Returns:
            Name and array of each output, in the order asked for.

        Raises:
            InvalidArgument: BAD_INPUT naming the field as `inputs[i].…` or `outputs[i].name`.
            ResourceExhausted: OUT_OF_MEMORY.
            FailedPrecondition: MODEL_BROKEN if an operator is not implemented for what it is given here.
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
                raise _bad(f"the model has no input {name!r}; it has {known}", f"inputs[{index}].name")
            tensor, dtype = self._inputs[name]
            if array.dtype != dtype:
                given = _DATATYPES[array.dtype]
                raise _bad(f"input {name!r} is {given}; the model takes {tensor.datatype}", f"inputs[{index}].datatype")
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
                raise _bad(f"the model has no output {name!r}; it has {known}", f"outputs[{index}].name")
            if name in names[:index]:
                raise _bad(f"output {name!r} is asked for twice", f"outputs[{index}].name")


def _tensor(node: onnxruntime.NodeArg, shapeless: Collection[str]) -> Tensor:
    if node.type not in _ONNX_DATATYPES:
        how = _HOW_TO_CONVERT.get(node.type.partition("(")[0], _HOW_TO_CONVERT["tensor"])
        message = f"{node.name!r} has the type {node.type}: {how}. This server supports {', '.join(_ONNX_DATATYPES)}"
        raise FailedPrecondition("UNSUPPORTED_DATATYPE", message)
    if not node.shape and node.name in shapeless:
        return Tensor(node.name, _ONNX_DATATYPES[node.type], None)
    return Tensor(node.name, _ONNX_DATATYPES[node.type], tuple(map(_dim, node.shape)))


def _dim(dim: int | str | None) -> int | str:
    if isinstance(dim, int) and dim >= 0:
        return dim
    name = str(dim or "")
    return "" if _PLACEHOLDER.fullmatch(name) else name


def _to_text(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """ONNX strings are UTF-8 text: BYTES arrays become arrays of `str`."""
    feeds = dict(arrays)
    for index, (name, array) in enumerate(arrays.items()):
        if array.dtype == np.object_:
            text = np.empty(array.shape, np.object_)
            try:
                text.reshape(-1)[:] = [element.decode() for element in array.flat]
            except UnicodeDecodeError as error:
                raise _bad(
                    f"input {name!r} holds bytes that are not UTF-8; ONNX strings are", f"inputs[{index}]"
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
        f"input {tensor.name!r} has shape {given}; the model takes {wanted} (-1 is any size)", f"inputs[{index}].shape"
    )


def _bad(message: str, field: str) -> InvalidArgument:
    return InvalidArgument("BAD_INPUT", message, field=field)


def _run_error(error: Exception) -> MeshError:
    """Whose fault it is. The runtime's classes do not tell: a shape that does not fit and no memory are both Fail."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY):
        return ResourceExhausted("OUT_OF_MEMORY", "there is no memory to run the model on this many inputs; send fewer")
    if isinstance(error, onnxruntime_errors.EPFail) or any(words in text for words in _DEVICE_FAILED):
        return Internal("DEVICE_FAILED", f"the device failed while it ran the model: {_message(error)}")
    if isinstance(error, onnxruntime_errors.NotImplemented):
        return FailedPrecondition("MODEL_BROKEN", f"the model does not run here: {_message(error)}")
    return InvalidArgument("BAD_INPUT", f"the model does not run on these inputs: {_message(error)}", field="inputs")


def _load_message(error: Exception) -> str:
    """Returns why a model does not load, with a remedy where another version or option of the exporter helps."""
    text, runtime = str(error), f"ONNX Runtime {onnxruntime.__version__}"
    if match := _IR_VERSION.search(text):
        return f"its IR version is {match[1]}; {runtime} supports up to {match[2]}. Export it for an older ONNX"
    if match := _OPSET.search(text):
        found = f"it uses opset {match[1]} of {match[2]}; {runtime} supports up to {match[3]}"
        return f"{found}. Export it with opset_version={match[3]}"
    if "External data" in text:
        return "its weights are in another file (external data). Export it as one file, e.g. with external_data=False"
    return _message(error)


def _message(error: Exception) -> str:
    """ONNX Runtime's message without its code prefix, positions in its sources, and paths."""
    text = _CODE.sub("", str(error).strip()).rpartition("Status Message: ")[2]
    return without_paths(" ".join(_PLACE.sub("", text).split()))
