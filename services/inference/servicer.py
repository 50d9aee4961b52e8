"""GRPCInferenceService over the model repository: protobuf to domain and back, nothing else."""

import grpc

from common.errors import InvalidArgument, MeshError, NotFound
from common.paths import without_paths
from common.server import caller
from protos.inference.v2 import inference_pb2 as pb
from protos.inference.v2 import inference_pb2_grpc
from services.inference.codec import decode_inputs, encode_outputs, refuse_parameters
from services.inference.engine import Tensor
from services.inference.repository import Repository

EXTENSIONS = ["model_repository"]
PLATFORM = "onnxruntime_onnx"


class InferenceServicer(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers GRPCInferenceService; the proto documents every call.

    Args:
        repository: Started.
        version: Version of this server, for ServerMetadata.
    """

    def __init__(self, repository: Repository, version: str) -> None:
        self._repository = repository
        self._version = version

    def ServerLive(self, request: pb.ServerLiveRequest, context: grpc.ServicerContext) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: pb.ServerReadyRequest, context: grpc.ServicerContext) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._repository.ready)

    def ModelReady(self, request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:
        try:
            self._repository.get(caller(context).tenant, request.name, request.version)
        except MeshError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="deepseek-mesh", version=self._version, extensions=EXTENSIONS)

    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        model = self._repository.get(caller(context).tenant, request.name, request.version)
        return pb.ModelMetadataResponse(
            name=model.model_id,
            versions=[str(model.number)],
            platform=PLATFORM,
            inputs=map(_metadata, model.engine.inputs),
            outputs=map(_metadata, model.engine.outputs),
            parameters={
                "file": pb.InferParameter(string_param=model.file.name),
                "variant": pb.InferParameter(string_param=model.file.variant),
                "instruction_set": pb.InferParameter(string_param=self._repository.instruction_set),
                "reason": pb.InferParameter(string_param=model.file.reason),
            },
        )

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        if request.parameters:
            refuse_parameters(request.parameters, "parameters")
        for index, output in enumerate(request.outputs):
            refuse_parameters(output.parameters, f"outputs[{index}].parameters")
        model = self._repository.get(caller(context).tenant, request.model_name, request.model_version)
        results = model.engine.run(decode_inputs(request), [output.name for output in request.outputs])
        response = pb.ModelInferResponse(model_name=model.model_id, model_version=str(model.number), id=request.id)
        encode_outputs(response, results)
        return response

    def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        _check_repository(request.repository_name)
        entries = self._repository.index(caller(context).tenant, ready_only=request.ready)
        return pb.RepositoryIndexResponse(
            models=(
                pb.RepositoryIndexResponse.ModelIndex(
                    name=entry.model_id,
                    version="" if entry.number is None else str(entry.number),
                    state=entry.state,
                    reason=without_paths(entry.reason),
                )
                for entry in entries
            )
        )

    def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        _check_repository(request.repository_name)
        refuse_parameters(set(request.parameters) - {"version"}, "parameters")
        reference = ""
        if "version" in request.parameters:
            parameter = request.parameters["version"]
            if parameter.WhichOneof("parameter_choice") != "string_param":
                raise InvalidArgument("BAD_VALUE", "the version must be a string", field="parameters[version]")
            reference = parameter.string_param
        self._repository.load(caller(context).tenant, request.model_name, reference)
        return pb.RepositoryModelLoadResponse()

    def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        _check_repository(request.repository_name)
        # Common clients always send it; no model here depends on another, so it is obeyed either way.
        refuse_parameters(set(request.parameters) - {"unload_dependents"}, "parameters")
        self._repository.unload(caller(context).tenant, request.model_name)
        return pb.RepositoryModelUnloadResponse()


def _metadata(tensor: Tensor) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


def _check_repository(name: str) -> None:
    if name:
        raise NotFound(
            "REPOSITORY_NOT_FOUND",
            f"there is no repository {name!r}; the registry is the one there is, named by the empty string",
            field="repository_name",
        )
