"""Asking loaded models over the Open Inference Protocol, with numpy arrays in and out.

Any other client of the protocol works as well; this one adds what the registry knows of a model: the encoders that
turn an image or a sentence into its tensors.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument
from deepseek.arrays import as_array
from protos.inference.v2 import inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh

DATATYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
"""The protocol's fixed-size datatypes and their numpy types."""
_LENGTH = struct.Struct("<I")  # before each element of BYTES
_NAMES = {np.dtype(kind): name for name, kind in DATATYPES.items()}


class Inference:
    """Reached as `Mesh.inference`."""

    def __init__(self, mesh: Mesh) -> None:
        self._stub = inference_pb2_grpc.GRPCInferenceServiceStub(mesh.channel("inference"))

    def load(self, model: str, version: str = "") -> None:
        """Loads a version (a number or an alias; empty means the latest). The old one answers until it is ready."""
        request = inference_pb2.RepositoryModelLoadRequest(model_name=model)
        if version:
            request.parameters["version"].string_param = version
        self._stub.RepositoryModelLoad(request, timeout=300)

    def unload(self, model: str) -> None:
        """Unloads a model."""
        self._stub.RepositoryModelUnload(inference_pb2.RepositoryModelUnloadRequest(model_name=model))

    def index(self, *, ready: bool = False) -> Iterator[inference_pb2.RepositoryIndexResponse.ModelIndex]:
        """Every model version of the repository, or only the loaded ones."""
        yield from self._stub.RepositoryIndex(inference_pb2.RepositoryIndexRequest(ready=ready)).models

    def metadata(self, model: str) -> inference_pb2.ModelMetadataResponse:
        """Versions, inputs and outputs of a loaded model, and which of its files is served on the server's host.

        The parameters `file`, `variant`, `instruction_set` and `reason` describe that file.
        """
        request = inference_pb2.ModelMetadataRequest(name=model)
        metadata: inference_pb2.ModelMetadataResponse = self._stub.ModelMetadata(request)
        return metadata

    def infer(
        self, model: str, inputs: Mapping[str, npt.ArrayLike], *, version: str = ""
    ) -> dict[str, npt.NDArray[Any]]:
        """Runs a loaded model on one batch.

        Args:
            model: Name of the model.
            inputs: An array, tensor or list for each input, with the datatypes and shapes that `metadata` returns;
                texts or `bytes` for BYTES.
            version: Empty means the version that is served.

        Returns:
            An array for each output; for BYTES an object array of `bytes`.

        Raises:
            InvalidArgument: BAD_INPUT.
        """
        request = inference_pb2.ModelInferRequest(model_name=model, model_version=version)
        for name, given in inputs.items():
            array = as_array(given, reason="BAD_INPUT", field=f"inputs[{name}]")
            datatype, raw = _encoded(array, f"inputs[{name}]")
            request.inputs.add(name=name, datatype=datatype, shape=array.shape)
            request.raw_input_contents.append(raw)
        response = self._stub.ModelInfer(request)
        return {
            output.name: _decoded(raw, output.datatype).reshape(output.shape)
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        }


def _encoded(array: npt.NDArray[Any], field: str) -> tuple[str, bytes]:
    """Datatype and raw contents of an array."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype in _NAMES:
        return _NAMES[array.dtype], array.tobytes()
    elements = [element.encode() if isinstance(element, str) else element for element in array.flat]
    if array.dtype.kind not in "OSU" or not all(isinstance(element, bytes) for element in elements):
        raise InvalidArgument("BAD_INPUT", f"arrays of {array.dtype} cannot be sent", field=field)
    return "BYTES", b"".join(_LENGTH.pack(len(element)) + element for element in elements)


def _decoded(raw: bytes, datatype: str) -> npt.NDArray[Any]:
    if datatype != "BYTES":
        return np.frombuffer(raw, DATATYPES[datatype])
    elements, start = [], 0
    while start < len(raw):
        start += _LENGTH.size
        end = start + _LENGTH.unpack_from(raw, start - _LENGTH.size)[0]
        elements.append(raw[start:end])
        start = end
    return np.array(elements, np.object_)
