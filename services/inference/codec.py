"""Tensors between protobuf and numpy, as the Open Inference Protocol lays them out.

Raw contents are read where they lie (`np.frombuffer`, no copy); typed contents, which hand-written clients send, cost
a copy an element. Answers are always raw: common clients decode nothing else. Elements are little-endian in row-major
order; each BYTES element is preceded by its length in 4 bytes. Whether a tensor suits the model is for `engine`.
"""

import math
import struct
import sys
from collections.abc import Iterable

import numpy as np

from common.errors import InvalidArgument
from protos.inference.v2 import inference_pb2 as pb
from services.inference.engine import DTYPES, Array

assert sys.byteorder == "little", "raw contents are little-endian"

_TYPED_FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}
_LENGTH = struct.Struct("<I")


def decode_inputs(request: pb.ModelInferRequest) -> dict[str, Array]:
    """The inputs of a request, in its order.

    Args:
        request: Read only; the arrays are read-only views of its raw contents where there are any.

    Returns:
        Arrays by name, with the datatype and shape the request claims; BYTES as object arrays of `bytes`.

    Raises:
        InvalidArgument: BAD_INPUT if contents and claims do not agree, naming the field.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise _bad(f"{len(raw)} raw contents for {len(request.inputs)} inputs", "raw_input_contents")
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(request.inputs):
        if tensor.name in arrays:
            raise _bad(f"input {tensor.name!r} is given twice", f"inputs[{index}].name")
        if tensor.parameters:
            refuse_parameters(tensor.parameters, f"inputs[{index}].parameters")
        if tensor.datatype not in DTYPES:
            raise _bad(
                f"input {tensor.name!r} has the datatype {tensor.datatype!r}; this server knows {', '.join(DTYPES)}",
                f"inputs[{index}].datatype",
            )
        shape = tuple(tensor.shape)
        if any(size < 0 for size in shape):
            raise _bad(f"input {tensor.name!r} has the shape {list(shape)}", f"inputs[{index}].shape")
        if not raw:
            arrays[tensor.name] = _decode_typed(tensor, shape, index)
        elif tensor.HasField("contents") and tensor.contents.ListFields():
            raise _bad(
                f"input {tensor.name!r} has contents, and the request raw contents; send one of them",
                f"inputs[{index}].contents",
            )
        else:
            arrays[tensor.name] = _decode_raw(raw[index], tensor, shape, index)
    return arrays


def encode_outputs(response: pb.ModelInferResponse, outputs: Iterable[tuple[str, Array]]) -> None:
    """Add outputs to a response, raw.

    Args:
        response: Changed.
        outputs: Name and array of each.
    """
    for name, array in outputs:
        response.outputs.add(name=name, datatype=_DATATYPES[array.dtype], shape=array.shape)
        response.raw_output_contents.append(_encode_bytes(array) if array.dtype == np.object_ else array.tobytes())


def refuse_parameters(parameters: Iterable[str], field: str) -> None:
    """No inference parameter has a meaning here, and none is ignored in silence.

    Raises:
        InvalidArgument: UNKNOWN_FIELD naming the first one.
    """
    for name in sorted(parameters):
        raise InvalidArgument(
            "UNKNOWN_FIELD", f"the parameter {name!r} is not supported by this server", field=f"{field}[{name}]"
        )


def _decode_raw(
    data: bytes, tensor: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...], index: int
) -> Array:
    num_elements = math.prod(shape)
    field = f"raw_input_contents[{index}]"
    if tensor.datatype == "BYTES":
        elements = _decode_bytes(data, field)
        if len(elements) != num_elements:
            raise _count_mismatch(tensor, shape, len(elements), field)
        return _shaped(_object_array(elements), tensor, shape, index)
    dtype = DTYPES[tensor.datatype]
    if len(data) != num_elements * dtype.itemsize:
        raise _bad(
            f"input {tensor.name!r} of {tensor.datatype} {list(shape)} takes {num_elements * dtype.itemsize} bytes; "
            f"there are {len(data)}",
            field,
        )
    array = _shaped(np.frombuffer(data, dtype), tensor, shape, index)
    if dtype == np.bool_ and num_elements and array.view(np.uint8).max() > 1:
        raise _bad(f"input {tensor.name!r} is BOOL; its bytes must be 0 or 1", field)
    return array


def _decode_typed(tensor: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...], index: int) -> Array:
    field = f"inputs[{index}].contents"
    if tensor.datatype not in _TYPED_FIELDS:
        raise _bad(f"{tensor.datatype} has no typed contents; send raw_input_contents", field)
    name = _TYPED_FIELDS[tensor.datatype]
    for descriptor, _ in tensor.contents.ListFields():
        if descriptor.name != name:
            raise _bad(f"the contents of {tensor.datatype} go into {name}", f"{field}.{descriptor.name}")
    values = getattr(tensor.contents, name)
    if len(values) != math.prod(shape):
        raise _count_mismatch(tensor, shape, len(values), f"{field}.{name}")
    if tensor.datatype == "BYTES":
        return _shaped(_object_array(list(values)), tensor, shape, index)
    try:
        array = np.array(values, DTYPES[tensor.datatype])
    except OverflowError as error:
        raise _bad(f"a value of input {tensor.name!r} does not fit {tensor.datatype}", f"{field}.{name}") from error
    return _shaped(array, tensor, shape, index)


def _decode_bytes(data: bytes, field: str) -> list[bytes]:
    elements = []
    position = 0
    while position < len(data):
        start = position + _LENGTH.size
        if start > len(data):
            raise _bad("the raw contents end inside the length of an element", field)
        position = start + _LENGTH.unpack_from(data, position)[0]
        if position > len(data):
            raise _bad("the raw contents end inside an element", field)
        elements.append(data[start:position])
    return elements


def _encode_bytes(array: Array) -> bytes:
    return b"".join(_LENGTH.pack(len(element)) + element for element in array.flat)


def _object_array(elements: list[bytes]) -> Array:
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array


def _shaped(array: Array, tensor: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...], index: int) -> Array:
    """The array in its shape; numpy refuses too many dimensions, and empty arrays with huge ones."""
    try:
        return array.reshape(shape)
    except ValueError as error:
        raise _bad(f"input {tensor.name!r} cannot have the shape {list(shape)}", f"inputs[{index}].shape") from error


def _count_mismatch(
    tensor: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...], count: int, field: str
) -> InvalidArgument:
    return _bad(
        f"input {tensor.name!r} of shape {list(shape)} takes {math.prod(shape)} elements; there are {count}", field
    )


def _bad(message: str, field: str) -> InvalidArgument:
    return InvalidArgument("BAD_INPUT", message, field=field)
