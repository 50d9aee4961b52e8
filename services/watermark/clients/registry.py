"""gRPC client for the registry."""

import grpc

from common.auth.identity import on_behalf_of
from common.errors import InvalidArgument
from common.proto import enum_name
from common.remote import relabelled
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from protos.watermark.v1 import watermark_pb2
from services.watermark.resources import parse_watermark_name, watermark_name


class RegistryClient:
    """Implements `ports.Registry`.

    Args:
        channel: Channel from `common.channel.open_channel`. The client does not close the channel.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = registry_pb2_grpc.RegistryServiceStub(channel)

    def create_watermark(self, tenant: str, modality: str, model_version: str, key_epoch: int, request_id: str) -> int:
        """See `Registry.create_watermark`."""
        request = registry_pb2.CreateWatermarkRequest(
            modality=enum_name(watermark_pb2.Modality, modality),
            model_version=model_version,
            key_epoch=key_epoch,
            request_id=request_id,
        )
        # Of the arguments, only `model_version` comes from the caller of the watermark service.
        with relabelled("model_version", not_found="MODEL_VERSION_NOT_FOUND"):
            watermark = self._stub.CreateWatermark(request, metadata=on_behalf_of(tenant)).watermark
        return parse_watermark_name(watermark.name)

    def set_watermark_content(self, tenant: str, watermark_id: int, sha256: str, size_bytes: int) -> None:
        """See `Registry.set_watermark_content`."""
        request = registry_pb2.SetWatermarkContentRequest(
            name=watermark_name(watermark_id), content_sha256=sha256, content_size_bytes=size_bytes
        )
        self._stub.SetWatermarkContent(request, metadata=on_behalf_of(tenant))

    def check_model_version(self, tenant: str, model_version: str) -> None:
        """See `Registry.check_model_version`."""
        request = registry_pb2.GetModelVersionRequest(name=model_version)
        with relabelled("model_version", not_found="MODEL_VERSION_NOT_FOUND"):
            found = self._stub.GetModelVersion(request, metadata=on_behalf_of(tenant)).model_version
        if found.name != model_version:
            message = f"{model_version!r} does not refer to a version by its number; use {found.name}"
            raise InvalidArgument("BAD_NAME", message, field="model_version")
