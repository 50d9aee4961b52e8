"""Artifacts: the bytes behind versions, checkpoints and manifests."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from common.artifacts.store import write_whole
from common.errors import DataLoss, Unavailable
from protos.artifact.v1 import artifact_pb2, artifact_pb2_grpc

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh

RETRY_S = 0.2
PATIENCE_S = 30
"""How long the service may be away, without a byte getting through, before a reader gives up."""


class Artifacts:
    """Reached as `Mesh.artifacts`: read from the store where this client reaches it, through the mesh elsewhere.

    Every method raises NotFound (BLOB_NOT_FOUND) if the client's tenant has no such artifact, and DataLoss
    (BLOB_DAMAGED) if what arrives does not match its digest.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def read(self, sha256: str) -> bytes:
        """An artifact that is known to be small."""
        return b"".join(self.chunks(sha256))

    def fetch(self, sha256: str, path: Path, *, on_bytes: Callable[[int], None] | None = None) -> Path:
        """Copies an artifact to a file, which appears whole and verified or not at all.

        Args:
            sha256: Its digest.
            path: Where to; a file there is replaced. Its folder exists.
            on_bytes: Called with the number of bytes that have just come.

        Raises:
            ResourceExhausted: DISK_FULL.
            FailedPrecondition: DISK_READ_ONLY.
        """

        def counted() -> Iterator[bytes]:
            for chunk in self.chunks(sha256):
                yield chunk
                if on_bytes:
                    on_bytes(len(chunk))

        write_whole(path, counted())
        return path

    def chunks(self, sha256: str) -> Iterator[bytes]:
        """An artifact piece by piece, across restarts of the service; verified when the last piece was taken."""
        if self._mesh.reaches_store:
            return self._mesh.store.chunks(self._mesh.tenant, sha256)
        return self._streamed(sha256)

    def _streamed(self, sha256: str) -> Iterator[bytes]:
        stub = artifact_pb2_grpc.ArtifactServiceStub(self._mesh.channel("ingest"))
        digest, offset, last_progress, complete = hashlib.sha256(), 0, time.monotonic(), False
        while not complete:
            try:
                for part in stub.ReadArtifact(artifact_pb2.ReadArtifactRequest(sha256=sha256, offset=offset)):
                    digest.update(part.data)
                    offset += len(part.data)
                    last_progress = time.monotonic()
                    yield part.data
                complete = True
            except Unavailable:
                if time.monotonic() - last_progress > PATIENCE_S:
                    raise
                time.sleep(RETRY_S)
        if digest.hexdigest() != sha256:
            raise DataLoss("BLOB_DAMAGED", f"what arrived of {sha256} does not match its digest; try again")
