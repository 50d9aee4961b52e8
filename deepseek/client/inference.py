"""Client of loaded models over the Open Inference Protocol, with NumPy arrays as inputs and outputs.

Any other client of this protocol works with a mesh as well. To encode images and text as input arrays, use
`deepseek.models.inputs`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument
from deepseek.arrays import as_array
from deepseek.client import names
from deepseek.client.connection import Connection
from deepseek.models.datatypes import DATATYPES, DTYPES
from protos.inference.v2 import inference_pb2, inference_pb2_grpc
from protos.registry.v1 import registry_pb2, registry_pb2_grpc

_LENGTH = struct.Struct("<I")  # the length that precedes each element of a BYTES tensor


class Inference:
    """Client of a mesh's loaded models, available as `Mesh.inference`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = inference_pb2_grpc.GRPCInferenceServiceStub(connection.channel("inference"))

    def load(self, model: str, version: str = "") -> None:
        """Loads a version of a model for serving. The previous version is served until the new one is ready.

        Args:
            model: Name of the model, or of one of its versions, e.g. `digits:3` or `digits@champion`.
            version: Version number or alias, unless `model` names the version; empty means the latest version.
        """
        name, version = _named_once(model, version)
        request = inference_pb2.RepositoryModelLoadRequest(model_name=name)
        if version:
            request.parameters["version"].string_param = version
        self._stub.RepositoryModelLoad(request, timeout=300)

    def unload(self, model: str) -> None:
        """Unloads a model."""
        name = names.series_id(model, "models", field="model")
        self._stub.RepositoryModelUnload(inference_pb2.RepositoryModelUnloadRequest(model_name=name))

    def index(self, *, ready: bool = False) -> Iterator[inference_pb2.RepositoryIndexResponse.ModelIndex]:
        """Yields every model version in the repository. If `ready` is True, yields only the loaded versions."""
        yield from self._stub.RepositoryIndex(inference_pb2.RepositoryIndexRequest(ready=ready)).models

    def metadata(self, model: str, version: str = "") -> inference_pb2.ModelMetadataResponse:
        """Returns the versions, inputs and outputs of a loaded model.

        Args:
            model: Name of the model, or of the version that must be loaded, e.g. `digits:3` or `digits@champion`.
            version: Number or alias of that version, unless `model` names the version; empty means whichever version is
                loaded.

        The parameters `file`, `variant`, `instruction_set` and `reason` of the response say which file of the version
        is served and why.
        """
        name, number = self._loaded(model, version)
        request = inference_pb2.ModelMetadataRequest(name=name, version=number)
        metadata: inference_pb2.ModelMetadataResponse = self._stub.ModelMetadata(request)
        return metadata

    def infer(
        self, model: str, inputs: Mapping[str, npt.ArrayLike], *, version: str = ""
    ) -> dict[str, npt.NDArray[Any]]:
        """Runs a loaded model on one batch.

        Args:
            model: Name of the model, or of the version that must be loaded, e.g. `digits:3`. The registry looks up
                `latest` or an alias in each call.
            inputs: One array, tensor or list per input, with the datatype and shape that `metadata` returns. The
                elements of a BYTES input are `str` or `bytes` objects.
            version: Number or alias of the version, unless `model` names the version; empty means the served version.

        Returns:
            One array per output. The array of a BYTES output has the dtype object, and its elements are `bytes`.

        Raises:
            InvalidArgument: BAD_INPUT if an input does not match the model's inputs.
        """
        series, number = self._loaded(model, version)
        request = inference_pb2.ModelInferRequest(model_name=series, model_version=number)
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

    def _loaded(self, model: str, version: str) -> tuple[str, str]:
        """Returns the id of a model and the number of its version; the latter is empty if no argument names one."""
        name, version = _named_once(model, version)
        if not version or version.isdigit():
            return name, version
        reference = f"{name}:latest" if version == "latest" else f"{name}@{version}"
        request = registry_pb2.GetModelVersionRequest(name=names.version_name(reference, "models", field="version"))
        found = registry_pb2_grpc.RegistryServiceStub(self._connection.channel("registry")).GetModelVersion(request)
        return name, found.model_version.name.rpartition("/")[2]


def _named_once(model: str, version: str) -> tuple[str, str]:
    """Returns the id of a model, and the reference to a version that one of the arguments may have."""
    name, named = names.served_version(model, field="model")
    if named and version:
        message = f"{model!r} names a version, and so does {version!r}; name it once"
        raise InvalidArgument("BAD_VALUE", message, field="version")
    return name, named or version


def _encoded(array: npt.NDArray[Any], field: str) -> tuple[str, bytes]:
    """Returns the name of an array's datatype in the protocol, and the array's raw contents."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype in DATATYPES and array.dtype.kind != "O":
        return DATATYPES[array.dtype], array.tobytes()
    elements = [element.encode() if isinstance(element, str) else element for element in array.flat]
    if array.dtype.kind not in "OSU" or not all(isinstance(element, bytes) for element in elements):
        message = f"an array of {array.dtype} cannot be sent; convert it to the datatype of the model's input"
        raise InvalidArgument("BAD_INPUT", message, field=field)
    return "BYTES", b"".join(_LENGTH.pack(len(element)) + element for element in elements)


def _decoded(raw: bytes, datatype: str) -> npt.NDArray[Any]:
    if datatype != "BYTES":
        return np.frombuffer(raw, DTYPES[datatype])
    elements, start = [], 0
    while start < len(raw):
        start += _LENGTH.size
        end = start + _LENGTH.unpack_from(raw, start - _LENGTH.size)[0]
        elements.append(raw[start:end])
        start = end
    return np.array(elements, np.object_)
