"""The artifact store: the contract of all implementations, and the code that they share.

Blobs are content-addressed per tenant (`<tenant>/sha256/<ab>/<hex>`) and immutable. `ArtifactStore` checks names and
digests on every read and write; implementations add a few primitives. Content is spooled before it is published: its
digest, and therefore its name, is known only after the last byte. A store is not a cache, and it does not know which
services refer to a blob: garbage collection (`deepseek.upkeep`) decides which blobs to delete, partly by their age.
Each put of the same content resets a blob's age, because the writer may be about to refer to the blob.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from common.artifacts.artifact import Artifact, check_media_type, check_sha256
from common.artifacts.blob import BlobInfo, chunks_of, digest_of
from common.errors import (
    DataLoss,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from common.files import disk_error, replace_file
from common.names import check_id


class ArtifactStore(ABC):
    """A store of immutable blobs, addressed by digest.

    **Thread safety.** All methods are thread-safe, and any number of processes may share one store.

    **Writes.** `put` is atomic (no reader sees a partial blob, even if the writer is killed), durable once it has
    returned, and idempotent: identical content is stored once per tenant.

    **Reads.** Content is verified. A read of bytes that do not match their digest fails.

    **Errors.** All methods raise InvalidArgument (BAD_NAME, BAD_DIGEST) for a malformed tenant or digest, Unavailable
    (STORE_UNREACHABLE) while the store is unavailable, and FailedPrecondition (STORE_ACCESS_DENIED,
    STORE_BUCKET_MISSING, STORE_OTHER_REGION) if it is misconfigured. Errors whose reason starts with STORE_ have the
    field `store`.
    """

    def put(
        self,
        tenant: str,
        source: bytes | Path | Iterable[bytes],
        media_type: str,
        *,
        expected_sha256: str | None = None,
    ) -> Artifact:
        """Stores content and returns its descriptor.

        Args:
            tenant: Tenant that owns the blob.
            source: The content: bytes, a file, or chunks of any length, which are never all held in memory at once.
            media_type: RFC 6838 media type. It is part of the descriptor, not of the stored blob.
            expected_sha256: Digest that the content must have.

        Returns:
            The descriptor, once the content is durable. If an intact blob is already stored, only its age is reset. A
            directory store verifies the stored bytes, and rewrites them if they are damaged. An S3 store checks only
            their length. In both kinds of store, later reads detect damage.

        Raises:
            InvalidArgument: DIGEST_MISMATCH (field `sha256`) or BAD_MEDIA_TYPE; nothing was stored.
            ResourceExhausted: STORE_FULL; nothing was stored.
            FailedPrecondition: STORE_READ_ONLY.
        """
        check_id(tenant, field="tenant")
        check_media_type(media_type)
        if expected_sha256 is not None:
            check_sha256(expected_sha256)
        if not isinstance(source, bytes | Path):
            return self._spool_and_publish(tenant, source, media_type, expected_sha256)
        # Content that can be read twice is hashed first, so that a blob that is already stored is not written again.
        sha256, size_bytes = digest_of(chunks_of(source))
        _check_expected(sha256, expected_sha256)
        if self._touch(tenant, sha256, size_bytes):
            return Artifact(sha256, size_bytes, media_type, tenant)
        with self._errors():
            free_bytes = self._free_bytes()
        # Fail before the disk is full, because other programs may use it too.
        if free_bytes is not None and free_bytes < size_bytes:
            message = (
                f"the content has {size_bytes} bytes, but the store has only {free_bytes} bytes left; free some space"
            )
            raise ResourceExhausted("STORE_FULL", message, field="store")
        return self._spool_and_publish(tenant, chunks_of(source), media_type, expected_sha256)

    def _spool_and_publish(
        self, tenant: str, chunks: Iterable[bytes], media_type: str, expected_sha256: str | None
    ) -> Artifact:
        digest = hashlib.sha256()
        with self._spool() as file:
            for chunk in chunks:
                digest.update(chunk)
                with self._errors():
                    file.write(chunk)
            sha256 = digest.hexdigest()
            _check_expected(sha256, expected_sha256)
            with self._errors():
                file.flush()
                artifact = Artifact(sha256, file.tell(), media_type, tenant)
                self._publish(file, artifact)
        return artifact

    def read(self, tenant: str, sha256: str) -> bytes:
        """Returns a blob's verified content. Use it only for blobs that are known to be small.

        Raises:
            NotFound: BLOB_NOT_FOUND.
            DataLoss: BLOB_DAMAGED; the stored bytes no longer match the digest.
        """
        return b"".join(self.chunks(tenant, sha256))

    def chunks(self, tenant: str, sha256: str) -> Iterator[bytes]:
        """Yields a blob's content in chunks. The content counts as verified only once the iterator ends without error.

        Raises:
            NotFound: BLOB_NOT_FOUND, before the first chunk.
            DataLoss: BLOB_DAMAGED, after the last chunk.
        """
        check_id(tenant, field="tenant")
        check_sha256(sha256)
        digest = hashlib.sha256()
        with self._errors():
            for chunk in self._open(tenant, sha256):
                digest.update(chunk)
                yield chunk
        if digest.hexdigest() != sha256:
            raise DataLoss(
                "BLOB_DAMAGED",
                f"the content of blob {sha256} no longer matches its digest; restore the blob from a backup",
            )

    def fetch(self, tenant: str, sha256: str, path: Path) -> Path:
        """Copies a blob to a file. The file appears only once its content is complete and verified.

        Args:
            tenant: Tenant that owns the blob.
            sha256: Digest of the blob.
            path: The file. An existing file is replaced. Its folder must exist.

        Returns:
            `path`. The copy belongs to the caller; changing it does not affect the store.

        Raises:
            NotFound: BLOB_NOT_FOUND.
            DataLoss: BLOB_DAMAGED.
            ResourceExhausted: DISK_FULL if the disk of `path` is full.
            FailedPrecondition: DISK_READ_ONLY if `path` cannot be written.
            Unavailable: DISK_UNAVAILABLE for any other disk error.
        """
        try:
            replace_file(path, self.chunks(tenant, sha256), durable=False)
        except OSError as error:
            raise disk_error(error, path, "copies of artifacts") from error
        return path

    def verify(self, tenant: str, sha256: str) -> None:
        """Reads a whole blob to check that it is intact.

        Raises:
            NotFound: BLOB_NOT_FOUND.
            DataLoss: BLOB_DAMAGED.
        """
        for _ in self.chunks(tenant, sha256):
            pass

    def size(self, tenant: str, sha256: str) -> int:
        """Returns a blob's length in bytes, without reading it.

        Raises:
            NotFound: BLOB_NOT_FOUND.
        """
        check_id(tenant, field="tenant")
        check_sha256(sha256)
        with self._errors():
            size_bytes = self._size(tenant, sha256)
        if size_bytes is None:
            raise self._not_found(tenant, sha256)
        return size_bytes

    def exists(self, tenant: str, sha256: str) -> bool:
        """Returns whether the tenant has a blob with this digest, without reading it."""
        check_id(tenant, field="tenant")
        check_sha256(sha256)
        with self._errors():
            return self._size(tenant, sha256) is not None

    def keep(self, tenant: str, sha256: str) -> bool:
        """Resets the age of a blob, as a put of its content does, because the caller is about to refer to it.

        Returns:
            Whether the blob exists.
        """
        check_id(tenant, field="tenant")
        check_sha256(sha256)
        with self._errors():
            size_bytes = self._size(tenant, sha256)
            return size_bytes is not None and self._touch(tenant, sha256, size_bytes)

    def list(self, tenant: str) -> Iterator[str]:
        """Yields the digests of a tenant's blobs, in ascending order."""
        return (stored.sha256 for stored in self.entries(tenant))

    def entries(self, tenant: str) -> Iterator[BlobInfo]:
        """Yields a tenant's blobs with their sizes and ages, in ascending order of their digests."""
        check_id(tenant, field="tenant")
        return self._entries(tenant)

    def copy(self, tenant: str, sha256: str, target: "ArtifactStore") -> bool:
        """Copies a blob to another store, and verifies its content.

        Args:
            tenant: Tenant that owns the blob, in both stores.
            sha256: Digest of the blob.
            target: The other store.

        Returns:
            Whether the blob was copied. If the target already has the blob, only the blob's age in the target is reset.

        Raises:
            NotFound: BLOB_NOT_FOUND.
            DataLoss: BLOB_DAMAGED; nothing was copied.
            MeshError: An error of the target's `put`.
        """
        if target._touch(tenant, sha256, self.size(tenant, sha256)):
            return False
        target.put(tenant, self.chunks(tenant, sha256), "application/octet-stream", expected_sha256=sha256)
        return True

    @abstractmethod
    def tenants(self) -> Iterator[str]:
        """Yields, in ascending order, the tenants that have blobs or once had some."""

    def expire(self, tenant: str, sha256: str, before_us: int) -> bool:
        """Deletes a blob unless it was put recently. Safe to call during a concurrent put of the same content.

        Args:
            tenant: Tenant that owns the blob.
            sha256: Digest of the blob.
            before_us: Time in UTC microseconds; the blob is deleted if it was last put before this time.

        Returns:
            Whether this call deleted the blob.

        Raises:
            FailedPrecondition: STORE_READ_ONLY.
        """
        check_id(tenant, field="tenant")
        check_sha256(sha256)
        with self._errors():
            return self._expire(tenant, sha256, before_us)

    def delete(self, tenant: str, sha256: str) -> None:
        """Deletes a blob; does nothing if it does not exist.

        Raises:
            FailedPrecondition: STORE_READ_ONLY.
        """
        check_id(tenant, field="tenant")
        check_sha256(sha256)
        with self._errors():
            self._delete(tenant, sha256)

    @abstractmethod
    def check(self) -> None:
        """Checks that the store is available. The check is cheap enough for readiness checks.

        Raises:
            MeshError: The store is not available.
        """

    @staticmethod
    def _not_found(tenant: str, sha256: str) -> NotFound:
        return NotFound("BLOB_NOT_FOUND", f"tenant {tenant} has no blob {sha256}")

    @abstractmethod
    def _errors(self) -> AbstractContextManager[None]:
        """Returns a context that translates errors of the storage engine into MeshErrors."""

    @abstractmethod
    def _free_bytes(self) -> int | None:
        """Returns the number of free bytes; None if it is unknown."""

    @abstractmethod
    def _spool(self) -> AbstractContextManager[BinaryIO]:
        """Opens a temporary file, which is removed on exit or, after a crash, when the store is opened again."""

    @abstractmethod
    def _publish(self, file: BinaryIO, artifact: Artifact) -> None:
        """Publishes a spooled file as the blob, durably and atomically."""

    @abstractmethod
    def _open(self, tenant: str, sha256: str) -> Iterator[bytes]:
        """Yields the stored bytes; raises NotFound before the first chunk if there is no such blob."""

    @abstractmethod
    def _size(self, tenant: str, sha256: str) -> int | None:
        """Returns the stored size; None if there is no such blob."""

    @abstractmethod
    def _touch(self, tenant: str, sha256: str, size_bytes: int) -> bool:
        """Returns whether the blob is stored; if so, resets its age so that no concurrent `_expire` deletes it."""

    @abstractmethod
    def _entries(self, tenant: str) -> Iterator[BlobInfo]:
        """Yields a tenant's blobs in ascending order of their digests; raises only MeshErrors."""

    @abstractmethod
    def _expire(self, tenant: str, sha256: str, before_us: int) -> bool:
        """Deletes a blob if it was last put before `before_us`. A concurrent put prevents or detects the deletion."""

    @abstractmethod
    def _delete(self, tenant: str, sha256: str) -> None:
        """Deletes a blob if it exists."""


def _check_expected(sha256: str, expected_sha256: str | None) -> None:
    if expected_sha256 not in (None, sha256):
        raise InvalidArgument(
            "DIGEST_MISMATCH",
            f"the SHA-256 of the content is {sha256}, not {expected_sha256}; the content was damaged in transit",
            field="sha256",
        )
