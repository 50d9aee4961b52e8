"""The watermark RPCs of RegistryService, in a separate class of the same gRPC service (docs/decisions/0015)."""

import grpc

from common.database import PageRequest
from common.proto import enum_name, enum_word, repeatable, timestamp
from common.server import caller
from protos.registry.v1 import registry_pb2 as pb
from protos.registry.v1 import registry_pb2_grpc
from protos.watermark.v1 import watermark_pb2
from services.registry.watermarks import Watermark, Watermarks


class WatermarkServicer(registry_pb2_grpc.RegistryServiceServicer):
    """Implements the watermark RPCs. `RegistryServicer` inherits them.

    Args:
        watermarks: Watermarks, identified by the ids that marks carry.
    """

    def __init__(self, watermarks: Watermarks) -> None:
        self._watermarks = watermarks

    def CreateWatermark(
        self, request: pb.CreateWatermarkRequest, context: grpc.ServicerContext
    ) -> pb.CreateWatermarkResponse:
        watermark = self._watermarks.create(
            caller(context).tenant,
            enum_word(watermark_pb2.Modality, request.modality),
            request.model_version,
            request.key_epoch,
            repeatable("CreateWatermark", request, request.request_id),
        )
        return pb.CreateWatermarkResponse(watermark=_watermark(watermark))

    def SetWatermarkContent(
        self, request: pb.SetWatermarkContentRequest, context: grpc.ServicerContext
    ) -> pb.SetWatermarkContentResponse:
        watermark = self._watermarks.set_content(
            caller(context).tenant, request.name, request.content_sha256, request.content_size_bytes
        )
        return pb.SetWatermarkContentResponse(watermark=_watermark(watermark))

    def GetWatermark(self, request: pb.GetWatermarkRequest, context: grpc.ServicerContext) -> pb.GetWatermarkResponse:
        return pb.GetWatermarkResponse(watermark=_watermark(self._watermarks.get(caller(context).tenant, request.name)))

    def ListWatermarks(
        self, request: pb.ListWatermarksRequest, context: grpc.ServicerContext
    ) -> pb.ListWatermarksResponse:
        watermarks, token = self._watermarks.list_watermarks(
            caller(context).tenant,
            PageRequest(request.page_size, request.page_token),
            content_sha256=request.content_sha256,
            model_version=request.model_version,
        )
        return pb.ListWatermarksResponse(watermarks=map(_watermark, watermarks), next_page_token=token)


def _watermark(watermark: Watermark) -> pb.Watermark:
    return pb.Watermark(
        name=watermark.name,
        modality=enum_name(watermark_pb2.Modality, watermark.modality),
        model_version=watermark.model_version,
        key_epoch=watermark.key_epoch,
        content_sha256=watermark.content_sha256,
        content_size_bytes=watermark.content_size_bytes,
        create_time=timestamp(watermark.create_us),
    )
