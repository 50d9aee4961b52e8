"""Implements deepseek.artifact.v1.ArtifactService, which serves blobs to clients that cannot reach the store itself."""

from collections.abc import Iterator

import grpc

from common.artifacts.blob import CHUNK_BYTES
from common.artifacts.store import ArtifactStore
from common.call_context import caller
from common.errors import InvalidArgument
from protos.artifact.v1 import artifact_pb2, artifact_pb2_grpc

_ENVELOPE_BYTES = 16  # size of a message without its data


class ArtifactServicer(artifact_pb2_grpc.ArtifactServiceServicer):
    """Serves the blobs of the caller's tenant.

    Args:
        store: Store of the blobs.
        max_message_bytes: Maximum size of the server's messages.
    """

    def __init__(self, store: ArtifactStore, max_message_bytes: int) -> None:
        self._store = store
        self._piece_bytes = min(CHUNK_BYTES, max_message_bytes - _ENVELOPE_BYTES)

    def ReadArtifact(
        self, request: artifact_pb2.ReadArtifactRequest, context: grpc.ServicerContext
    ) -> Iterator[artifact_pb2.ReadArtifactResponse]:
        """Streams a blob and verifies its digest."""
        tenant = caller(context).tenant
        size_bytes = self._store.size(tenant, request.sha256)
        if not 0 <= request.offset <= size_bytes:
            message = f"the offset is {request.offset}; it must be between 0 and {size_bytes}, the size of the blob"
            raise InvalidArgument("BAD_VALUE", message, field="offset")
        to_skip = request.offset
        # The whole blob is read even if an offset is given, because its digest cannot be verified otherwise.
        for chunk in self._store.chunks(tenant, request.sha256):
            for start in range(to_skip, len(chunk), self._piece_bytes):
                yield artifact_pb2.ReadArtifactResponse(data=chunk[start : start + self._piece_bytes])
            to_skip = max(0, to_skip - len(chunk))
