"""The registry, asked over gRPC."""

import grpc

from common.auth import on_behalf_of
from common.errors import InvalidArgument, NotFound
from protos.registry.v1 import registry_pb2 as pb
from protos.registry.v1 import registry_pb2_grpc
from protos.watermark.v1 import watermark_pb2
from services.watermark.watermarks import id_of, watermark_name

MODALITIES = {"text": watermark_pb2.MODALITY_TEXT, "image": watermark_pb2.MODALITY_IMAGE}
"""By the names that the domain has for them."""


class Registry:
    """Implements `Watermarks`.

    Args:
        channel: From `common.channel.open_channel`; borrowed, not closed.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = registry_pb2_grpc.RegistryServiceStub(channel)

    def create(self, tenant: str, modality: str, model_version: str, key_epoch: int, request_id: str) -> int:
        """See `Watermarks.create`."""
        request = pb.CreateWatermarkRequest(
            modality=MODALITIES[modality], model_version=model_version, key_epoch=key_epoch, request_id=request_id
        )
        try:
            made = self._stub.CreateWatermark(request, metadata=on_behalf_of(tenant)).watermark
        except NotFound as error:
            raise NotFound("MODEL_VERSION_NOT_FOUND", error.message, field="model_version") from error
        except InvalidArgument as error:
            raise InvalidArgument(error.reason, error.message, field="model_version") from error
        return id_of(made.name)

    def set_content(self, tenant: str, message: int, sha256: str, size_bytes: int) -> None:
        """See `Watermarks.set_content`."""
        request = pb.SetWatermarkContentRequest(
            name=watermark_name(message), content_sha256=sha256, content_size_bytes=size_bytes
        )
        self._stub.SetWatermarkContent(request, metadata=on_behalf_of(tenant))
