"""The RPCs of RegistryService that delete something."""

import grpc

from common.proto import repeatable
from common.server import caller
from protos.registry.v1 import registry_pb2 as pb
from protos.registry.v1 import registry_pb2_grpc
from services.registry.deletion import Deletions
from services.registry.resources import Kind


class DeletionServicer(registry_pb2_grpc.RegistryServiceServicer):
    """Implements the Delete RPCs; the proto documents every RPC.

    Args:
        deletions: Deletes the registry's resources.
    """

    def __init__(self, deletions: Deletions) -> None:
        self._deletions = deletions

    def DeleteDatasetVersion(
        self, request: pb.DeleteDatasetVersionRequest, context: grpc.ServicerContext
    ) -> pb.DeleteDatasetVersionResponse:
        call = repeatable("DeleteDatasetVersion", request, request.request_id)
        self._deletions.delete_version(caller(context).tenant, Kind.DATASET, request.name, call)
        return pb.DeleteDatasetVersionResponse()

    def DeleteDataset(
        self, request: pb.DeleteDatasetRequest, context: grpc.ServicerContext
    ) -> pb.DeleteDatasetResponse:
        call = repeatable("DeleteDataset", request, request.request_id)
        self._deletions.delete_series(caller(context).tenant, Kind.DATASET, request.name, call)
        return pb.DeleteDatasetResponse()

    def DeleteModelVersion(
        self, request: pb.DeleteModelVersionRequest, context: grpc.ServicerContext
    ) -> pb.DeleteModelVersionResponse:
        call = repeatable("DeleteModelVersion", request, request.request_id)
        self._deletions.delete_version(caller(context).tenant, Kind.MODEL, request.name, call)
        return pb.DeleteModelVersionResponse()

    def DeleteModel(self, request: pb.DeleteModelRequest, context: grpc.ServicerContext) -> pb.DeleteModelResponse:
        call = repeatable("DeleteModel", request, request.request_id)
        self._deletions.delete_series(caller(context).tenant, Kind.MODEL, request.name, call)
        return pb.DeleteModelResponse()

    def DeleteAlias(self, request: pb.DeleteAliasRequest, context: grpc.ServicerContext) -> pb.DeleteAliasResponse:
        call = repeatable("DeleteAlias", request, request.request_id)
        self._deletions.delete_alias(caller(context).tenant, request.name, call)
        return pb.DeleteAliasResponse()
