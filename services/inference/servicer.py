"""Exposes the model repository as the gRPC service GRPCInferenceService, with conversions from and to protobuf."""

import json

import grpc

from common.errors import InvalidArgument, MeshError, NotFound
from common.paths import without_paths
from common.server import caller
from protos.inference.v2 import inference_pb2 as pb
from protos.inference.v2 import inference_pb2_grpc
from services.inference.codec import decode_inputs, encode_outputs, refuse_parameters
from services.inference.engine import Tensor
from services.inference.loaded import LoadedModel
from services.inference.repository import Repository
from services.inference.statistics import Total

EXTENSIONS = ["model_repository", "model_configuration", "statistics"]
PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"
ANY_BATCH_SIZE = (1 << 31) - 1


class InferenceServicer(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Implements GRPCInferenceService; the proto documents every RPC.

    Args:
        repository: Model repository, already started.
        version: Version of this server, which ServerMetadata returns.
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
                **{
                    f"labels.{output}": pb.InferParameter(string_param=json.dumps(list(labels), ensure_ascii=False))
                    for output, labels in model.labels.items()
                },
            },
        )

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        if request.parameters:
            refuse_parameters(request.parameters, "parameters")
        for index, output in enumerate(request.outputs):
            refuse_parameters(output.parameters, f"outputs[{index}].parameters")
        model = self._repository.get(caller(context).tenant, request.model_name, request.model_version)
        response = pb.ModelInferResponse(model_name=model.model_id, model_version=str(model.number), id=request.id)
        with model.statistics.measuring() as measured:
            arrays = decode_inputs(request)
            measured.end_part()
            results = model.engine.run(arrays, [output.name for output in request.outputs])
            measured.end_part()
            encode_outputs(response, results)
            measured.end_part()
            if model.takes_batches:
                measured.batch_size = len(arrays[model.engine.inputs[0].name])
        return response

    def ModelConfig(self, request: pb.ModelConfigRequest, context: grpc.ServicerContext) -> pb.ModelConfigResponse:
        model = self._repository.get(caller(context).tenant, request.name, request.version)
        batch = 1 if model.takes_batches else 0
        config = pb.ModelConfig(
            name=model.model_id,
            platform=PLATFORM,
            backend=BACKEND,
            max_batch_size=ANY_BATCH_SIZE if batch else 0,
            input=(
                pb.ModelInput(name=one.name, data_type=_data_type(one), dims=one.shape[batch:])
                for one in model.engine.inputs
            ),
            output=(
                pb.ModelOutput(name=one.name, data_type=_data_type(one), dims=one.shape[batch:])
                for one in model.engine.outputs
            ),
        )
        return pb.ModelConfigResponse(config=config)

    def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        tenant = caller(context).tenant
        if request.name:
            models = [self._repository.get(tenant, request.name, request.version)]
        else:
            models = self._repository.loaded(tenant)
        return pb.ModelStatisticsResponse(model_stats=map(_statistics, models))

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
                raise InvalidArgument(
                    "BAD_VALUE", "the parameter `version` must be a string", field="parameters[version]"
                )
            reference = parameter.string_param
        self._repository.load(caller(context).tenant, request.model_name, reference)
        return pb.RepositoryModelLoadResponse()

    def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        _check_repository(request.repository_name)
        # Common clients always send `unload_dependents`. No model here depends on another, so the value of that
        # parameter has no effect.
        refuse_parameters(set(request.parameters) - {"unload_dependents"}, "parameters")
        self._repository.unload(caller(context).tenant, request.model_name)
        return pb.RepositoryModelUnloadResponse()


def _metadata(tensor: Tensor) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


def _data_type(tensor: Tensor) -> str:
    return "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"


def _statistics(model: LoadedModel) -> pb.ModelStatistics:
    figures = model.statistics.figures
    decoding, execution, encoding = map(_duration, figures.parts)
    return pb.ModelStatistics(
        name=model.model_id,
        version=str(model.number),
        last_inference=figures.last_ms,
        inference_count=figures.inference_count,
        execution_count=figures.success.count,
        inference_stats=pb.InferStatistics(
            success=_duration(figures.success),
            fail=_duration(figures.fail),
            queue=pb.StatisticDuration(count=figures.success.count),
            compute_input=decoding,
            compute_infer=execution,
            compute_output=encoding,
        ),
    )


def _duration(total: Total) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=total.count, ns=total.ns)


def _check_repository(name: str) -> None:
    if name:
        raise NotFound(
            "REPOSITORY_NOT_FOUND",
            f"unknown repository {name!r}; this server has only one, so omit the name",
            field="repository_name",
        )
