"""deepseek.artifact.v1.ArtifactService: blobs of a store over gRPC, for clients that cannot reach the store."""

from collections.abc import Iterator

import grpc

from common.artifacts.store import CHUNK_BYTES, ArtifactStore
from common.errors import InvalidArgument
from common.server import Hosted, caller
from protos.artifact.v1 import artifact_pb2, artifact_pb2_grpc

SERVICE = "deepseek.artifact.v1.ArtifactService"

_ENVELOPE_BYTES = 16  # the part of a message besides its data


class ArtifactServicer(artifact_pb2_grpc.ArtifactServiceServicer):
    """Reads blobs of the caller's tenant.

    Args:
        store: Where they are.
        max_message_bytes: Largest message of the server.
    """

    def __init__(self, store: ArtifactStore, max_message_bytes: int) -> None:
        self._store = store
        self._piece_bytes = min(CHUNK_BYTES, max_message_bytes - _ENVELOPE_BYTES)

    def ReadArtifact(
        self, request: artifact_pb2.ReadArtifactRequest, context: grpc.ServicerContext
    ) -> Iterator[artifact_pb2.ReadArtifactResponse]:
        """Streams a blob, verified."""
        tenant = caller(context).tenant
        size_bytes = self._store.size(tenant, request.sha256)
        if not 0 <= request.offset <= size_bytes:
            message = f"offset is {request.offset}; the blob has {size_bytes} bytes"
            raise InvalidArgument("BAD_VALUE", message, field="offset")
        to_skip = request.offset
        # All of it is read, wherever the caller goes on: else its digest could not be checked.
        for chunk in self._store.chunks(tenant, request.sha256):
            for start in range(to_skip, len(chunk), self._piece_bytes):
                yield artifact_pb2.ReadArtifactResponse(data=chunk[start : start + self._piece_bytes])
            to_skip = max(0, to_skip - len(chunk))


def hosted(store: ArtifactStore, *, max_message_bytes: int) -> Hosted:
    """What a server hosts that hands out a store's blobs."""
    servicer = ArtifactServicer(store, max_message_bytes)
    return Hosted(SERVICE, artifact_pb2_grpc.add_ArtifactServiceServicer_to_server, servicer)
