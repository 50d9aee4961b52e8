"""Client of a mesh's artifacts: the content of versions, checkpoints and manifests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from common.errors import DataLoss
from common.files import disk_error, replace_file
from deepseek.client.connection import Connection
from deepseek.client.resume import resumed
from protos.artifact.v1 import artifact_pb2, artifact_pb2_grpc


class Artifacts:
    """Client of a mesh's artifacts, available as `Mesh.artifacts`.

    If the mesh file names the store, artifacts are read directly from the store; otherwise, from a service.

    Every method raises NotFound (BLOB_NOT_FOUND) if the client's tenant has no such artifact, and DataLoss
    (BLOB_DAMAGED) if the received bytes do not match the artifact's digest.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def read(self, sha256: str) -> bytes:
        """Returns the content of an artifact that fits into memory."""
        return b"".join(self.chunks(sha256))

    def fetch(self, sha256: str, path: Path, *, on_bytes: Callable[[int], None] | None = None) -> Path:
        """Copies an artifact to a file. The file is created or replaced only after all content has been verified.

        Args:
            sha256: Digest of the artifact.
            path: Target file, in an existing folder. An existing file is replaced.
            on_bytes: Called once per received chunk, with the number of bytes in that chunk.

        Raises:
            ResourceExhausted: DISK_FULL.
            FailedPrecondition: DISK_READ_ONLY.
        """

        def counted() -> Iterator[bytes]:
            for chunk in self.chunks(sha256):
                yield chunk
                if on_bytes:
                    on_bytes(len(chunk))

        try:
            replace_file(path, counted(), durable=False)
        except OSError as error:
            raise disk_error(error, path) from error
        return path

    def chunks(self, sha256: str) -> Iterator[bytes]:
        """Yields an artifact in chunks and verifies its digest after the last chunk. Resumes if a service restarts."""
        if self._connection.reaches_store:
            return self._connection.store.chunks(self._connection.tenant, sha256)
        return self._streamed(sha256)

    def _streamed(self, sha256: str) -> Iterator[bytes]:
        stub = artifact_pb2_grpc.ArtifactServiceStub(self._connection.channel("ingest"))
        digest, offset = hashlib.sha256(), 0

        def rest() -> Iterator[artifact_pb2.ReadArtifactResponse]:
            request = artifact_pb2.ReadArtifactRequest(sha256=sha256, offset=offset)
            return iter(stub.ReadArtifact(request))

        for part in resumed(rest):
            digest.update(part.data)
            offset += len(part.data)
            yield part.data
        if digest.hexdigest() != sha256:
            raise DataLoss("BLOB_DAMAGED", f"the bytes received for {sha256} do not match this digest; try again")
