"""The registry, asked over gRPC."""

from collections.abc import Iterator
from contextlib import contextmanager

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
        with _about_the_version():
            made = self._stub.CreateWatermark(request, metadata=on_behalf_of(tenant)).watermark
        return id_of(made.name)

    def set_content(self, tenant: str, message: int, sha256: str, size_bytes: int) -> None:
        """See `Watermarks.set_content`."""
        request = pb.SetWatermarkContentRequest(
            name=watermark_name(message), content_sha256=sha256, content_size_bytes=size_bytes
        )
        self._stub.SetWatermarkContent(request, metadata=on_behalf_of(tenant))

    def check_version(self, tenant: str, model_version: str) -> None:
        """See `Watermarks.check_version`."""
        request = pb.GetModelVersionRequest(name=model_version)
        with _about_the_version():
            found = self._stub.GetModelVersion(request, metadata=on_behalf_of(tenant)).model_version
        if found.name != model_version:
            message = f"{model_version!r} names no version by its number; {found.name} does"
            raise InvalidArgument("BAD_NAME", message, field="model_version")


@contextmanager
def _about_the_version() -> Iterator[None]:
    """Errors as callers of this service know them: the version is all that the registry was told by them."""
    try:
        yield
    except NotFound as error:
        raise NotFound("MODEL_VERSION_NOT_FOUND", error.message, field="model_version") from error
    except InvalidArgument as error:
        raise InvalidArgument(error.reason, error.message, field="model_version") from error
