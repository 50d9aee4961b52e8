"""Converts tensors between protobuf and numpy, in the layout of the Open Inference Protocol.

Raw contents are read in place (`np.frombuffer`, no copy). Typed contents, which hand-written clients send, are copied
element by element. Responses always use raw contents, because common clients decode nothing else. Raw elements are
little-endian and in row-major order; each BYTES element is preceded by a 4-byte length. Whether a tensor fits the model
is checked in `engine`.
"""

import math
import struct
import sys
from collections.abc import Iterable

import numpy as np

from common.errors import InvalidArgument
from deepseek.models.datatypes import DATATYPES, DTYPES
from protos.inference.v2 import inference_pb2 as pb
from services.inference.engine import Array

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
_LENGTH = struct.Struct("<I")


def decode_inputs(request: pb.ModelInferRequest) -> dict[str, Array]:
    """Returns the inputs of a request, in the request's order.

    Args:
        request: Request to decode. If it has raw contents, all returned arrays except BYTES arrays are read-only views
            of them.

    Returns:
        Arrays by name, with the datatype and shape stated in the request. A BYTES input is an object array of `bytes`.

    Raises:
        InvalidArgument: BAD_INPUT if the contents do not match the datatype and shape, or UNKNOWN_FIELD if an input has
            parameters. The error's field names the invalid part of the request.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise _bad(
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs; send one entry per input",
            "raw_input_contents",
        )
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(request.inputs):
        if tensor.name in arrays:
            raise _bad(f"input {tensor.name!r} appears twice; send each input once", f"inputs[{index}].name")
        if tensor.parameters:
            refuse_parameters(tensor.parameters, f"inputs[{index}].parameters")
        if tensor.datatype not in DTYPES:
            raise _bad(
                f"input {tensor.name!r} has the datatype {tensor.datatype!r}; this server supports {', '.join(DTYPES)}",
                f"inputs[{index}].datatype",
            )
        shape = tuple(tensor.shape)
        if any(size < 0 for size in shape):
            raise _bad(
                f"input {tensor.name!r} has the shape {list(shape)}; dimensions must not be negative",
                f"inputs[{index}].shape",
            )
        if not raw:
            arrays[tensor.name] = _decode_typed(tensor, shape, index)
        elif tensor.HasField("contents") and tensor.contents.ListFields():
            raise _bad(
                f"input {tensor.name!r} has typed contents, but the request also has raw contents; send only one kind",
                f"inputs[{index}].contents",
            )
        else:
            arrays[tensor.name] = _decode_raw(raw[index], tensor, shape, index)
    return arrays


def encode_outputs(response: pb.ModelInferResponse, outputs: Iterable[tuple[str, Array]]) -> None:
    """Adds outputs to a response as raw contents.

    Args:
        response: Response to extend.
        outputs: Name and array of each output.
    """
    for name, array in outputs:
        response.outputs.add(name=name, datatype=DATATYPES[array.dtype], shape=array.shape)
        response.raw_output_contents.append(_encode_bytes(array) if array.dtype == np.object_ else array.tobytes())


def refuse_parameters(parameters: Iterable[str], field: str) -> None:
    """Rejects unsupported parameters, because silently ignoring one would mislead the caller.

    Raises:
        InvalidArgument: UNKNOWN_FIELD if `parameters` is not empty. The field of the error identifies the parameter
            that comes first in alphabetical order.
    """
    for name in sorted(parameters):
        raise InvalidArgument(
            "UNKNOWN_FIELD", f"this server does not support the parameter {name!r}; omit it", field=f"{field}[{name}]"
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
            f"input {tensor.name!r} ({tensor.datatype}, shape {list(shape)}) requires "
            f"{num_elements * dtype.itemsize} bytes of raw contents; received {len(data)}",
            field,
        )
    array = _shaped(np.frombuffer(data, dtype), tensor, shape, index)
    if dtype == np.bool_ and num_elements and array.view(np.uint8).max() > 1:
        raise _bad(f"input {tensor.name!r} is BOOL; each of its bytes must be 0 or 1", field)
    return array


def _decode_typed(tensor: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...], index: int) -> Array:
    field = f"inputs[{index}].contents"
    if tensor.datatype not in _TYPED_FIELDS:
        raise _bad(f"{tensor.datatype} values cannot be sent as typed contents; use raw_input_contents", field)
    name = _TYPED_FIELDS[tensor.datatype]
    for descriptor, _ in tensor.contents.ListFields():
        if descriptor.name != name:
            message = f"{tensor.datatype} values belong in {name}, not in {descriptor.name}"
            raise _bad(message, f"{field}.{descriptor.name}")
    values = getattr(tensor.contents, name)
    if len(values) != math.prod(shape):
        raise _count_mismatch(tensor, shape, len(values), f"{field}.{name}")
    if tensor.datatype == "BYTES":
        return _shaped(_object_array(list(values)), tensor, shape, index)
    try:
        array = np.array(values, DTYPES[tensor.datatype])
    except OverflowError as error:
        message = f"input {tensor.name!r} has a value outside the range of {tensor.datatype}"
        raise _bad(message, f"{field}.{name}") from error
    return _shaped(array, tensor, shape, index)


def _decode_bytes(data: bytes, field: str) -> list[bytes]:
    elements = []
    position = 0
    while position < len(data):
        start = position + _LENGTH.size
        if start > len(data):
            raise _bad("the raw contents are truncated: they end inside an element's 4-byte length prefix", field)
        position = start + _LENGTH.unpack_from(data, position)[0]
        if position > len(data):
            raise _bad("the raw contents are truncated: they end in the middle of an element", field)
        elements.append(data[start:position])
    return elements


def _encode_bytes(array: Array) -> bytes:
    return b"".join(_LENGTH.pack(len(element)) + element for element in array.flat)


def _object_array(elements: list[bytes]) -> Array:
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array


def _shaped(array: Array, tensor: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...], index: int) -> Array:
    """Reshapes the array. Fails if numpy does not support the shape, e.g. because it has too many dimensions."""
    try:
        return array.reshape(shape)
    except ValueError as error:
        message = f"input {tensor.name!r} has the shape {list(shape)}: too many dimensions, or dimensions too large"
        raise _bad(message, f"inputs[{index}].shape") from error


def _count_mismatch(
    tensor: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...], count: int, field: str
) -> InvalidArgument:
    message = f"input {tensor.name!r} of shape {list(shape)} requires {math.prod(shape)} elements; received {count}"
    return _bad(message, field)


def _bad(message: str, field: str) -> InvalidArgument:
    return InvalidArgument("BAD_INPUT", message, field=field)
