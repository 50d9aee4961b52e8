"""The artifact store: what every implementation promises, and the part that is the same for all.

Blobs are content-addressed per tenant (`<tenant>/sha256/<ab>/<hex>`) and immutable. This class checks names, hashes
what goes in and what comes out, and leaves a few primitives to an implementation. Content is spooled before it is
published, because its name, the digest, is known only after its last byte.

It is not a cache, keeps no names and no references: what may be deleted is decided by those who hold manifests
(`deepseek.upkeep`). For them every blob has an age, which each put of its content makes new again: what was just put
may be what somebody is about to refer to.
"""

import contextlib
import errno
import hashlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from common.artifacts.artifact import Artifact, check_media_type, check_sha256
from common.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from common.names import check_id

CHUNK_BYTES = 1 << 20
"""Unit in which content is read, hashed and written: memory in use does not grow with a blob."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a file system answers when it, a quota or a limit of the process allows no more bytes."""

READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
"""What a file system answers when it does not let us."""


@dataclass(frozen=True)
class Stored:
    """A blob as a store lists it.

    Attributes:
        sha256: Its digest.
        size_bytes: Its length.
        put_us: When its content was last put, UTC microseconds by the store's clock, which may count whole seconds.
    """

    sha256: str
    size_bytes: int
    put_us: int


class ArtifactStore(ABC):
    """Immutable blobs, addressed by digest.

    Thread-safe; any number of processes may share one store. `put` is atomic (no reader sees half a blob, whatever
    kills the writer), durable once it has returned, and idempotent: equal content is stored once per tenant. Reads
    are verified: what does not match its digest is never returned. The caller owns nothing but the descriptor.

    All methods raise InvalidArgument (BAD_NAME, BAD_DIGEST) for a tenant or digest that is none, Unavailable
    (STORE_UNREACHABLE) while the store is away, and FailedPrecondition (STORE_ACCESS_DENIED, STORE_BUCKET_MISSING,
    STORE_OTHER_REGION) if it is configured wrongly. The field of a STORE_ error is `store`.
    """

    def put(
        self,
        tenant: str,
        source: bytes | Path | Iterable[bytes],
        media_type: str,
        *,
        expected_sha256: str | None = None,
    ) -> Artifact:
        """Stores content.

        Args:
            tenant: Whose blob it is.
            source: The content: bytes, a file, or chunks of any length, which are never held in memory together.
            media_type: RFC 6838 media type; it is part of the descriptor, not of the stored blob.
            expected_sha256: Digest that the content must have.

        Returns:
            The descriptor, once the content is durable. What is stored already is not written again, only its age is
            made new; whether a stored blob of the same length but with damaged bytes is mended thereby depends on the
            store: a directory is read to find out, a bucket is not. Reads tell in any case.

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
        # Content that can be read twice is hashed first: what is stored already costs no write.
        sha256, size_bytes = _digest(_chunks(source))
        _check_expected(sha256, expected_sha256)
        if self._holds(tenant, sha256, size_bytes):
            return Artifact(sha256, size_bytes, media_type, tenant)
        with self._errors():
            room = self._room()
        # Fails early, before it fills a disk that others need too.
        if room is not None and room < size_bytes:
            message = f"{size_bytes} bytes do not fit into the store, which has only {room} bytes left; free some"
            raise ResourceExhausted("STORE_FULL", message, field="store")
        return self._spool_and_publish(tenant, _chunks(source), media_type, expected_sha256)

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
        """Returns a blob's content, verified; for what is known to be small.

        Raises:
            NotFound: BLOB_NOT_FOUND.
            DataLoss: BLOB_DAMAGED; the stored bytes no longer match the digest.
        """
        return b"".join(self.chunks(tenant, sha256))

    def chunks(self, tenant: str, sha256: str) -> Iterator[bytes]:
        """Yields a blob's content piece by piece; it is verified only when the last piece was taken without an error.

        Raises:
            NotFound: BLOB_NOT_FOUND, before the first piece.
            DataLoss: BLOB_DAMAGED, after the last.
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
                "BLOB_DAMAGED", f"the stored bytes of {sha256} no longer match their digest; restore it from a backup"
            )

    def fetch(self, tenant: str, sha256: str, path: Path) -> Path:
        """Copies a blob to a file, which appears whole and verified or not at all.

        Args:
            tenant: Whose blob it is.
            sha256: Its digest.
            path: Where to; a file there is replaced. Its folder exists.

        Returns:
            `path`. The copy is the caller's own; changing it does not touch the store.

        Raises:
            NotFound: BLOB_NOT_FOUND.
            DataLoss: BLOB_DAMAGED.
            ResourceExhausted: DISK_FULL if `path` lies on a full disk.
            FailedPrecondition: DISK_READ_ONLY if nothing can be written there.
            Unavailable: DISK_UNAVAILABLE if it fails in another way.
        """
        write_whole(path, self.chunks(tenant, sha256), "copies of artifacts")
        return path

    def verify(self, tenant: str, sha256: str) -> None:
        """Returns if a blob is there and whole; reads all of it to find out.

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
        """Returns whether the tenant has such a blob, without reading it."""
        check_id(tenant, field="tenant")
        check_sha256(sha256)
        with self._errors():
            return self._size(tenant, sha256) is not None

    def list(self, tenant: str) -> Iterator[str]:
        """Yields the digests of a tenant's blobs, in ascending order."""
        return (stored.sha256 for stored in self.entries(tenant))

    def entries(self, tenant: str) -> Iterator[Stored]:
        """Yields a tenant's blobs with size and age, in ascending order of their digests."""
        check_id(tenant, field="tenant")
        return self._entries(tenant)

    def copy(self, tenant: str, sha256: str, target: "ArtifactStore") -> bool:
        """Puts a blob into another store as well, verified on the way.

        Args:
            tenant: Whose blob it is, here and there.
            sha256: Its digest.
            target: Where to.

        Returns:
            Whether it was not there yet; if it was, its age there is new.

        Raises:
            NotFound: BLOB_NOT_FOUND.
            DataLoss: BLOB_DAMAGED; nothing was copied.
            MeshError: As `put` of the target.
        """
        if target._holds(tenant, sha256, self.size(tenant, sha256)):
            return False
        target.put(tenant, self.chunks(tenant, sha256), "application/octet-stream", expected_sha256=sha256)
        return True

    @abstractmethod
    def tenants(self) -> Iterator[str]:
        """Yields the tenants that have or had blobs, in ascending order."""

    def expire(self, tenant: str, sha256: str, before_us: int) -> bool:
        """Deletes a blob unless it was put since; safe beside a put of the same content at the same moment.

        Args:
            tenant: Whose blob it is.
            sha256: Its digest.
            before_us: It goes if it was last put before this, UTC microseconds.

        Returns:
            Whether it was deleted by this call.

        Raises:
            FailedPrecondition: STORE_READ_ONLY.
        """
        check_id(tenant, field="tenant")
        check_sha256(sha256)
        with self._errors():
            return self._expire(tenant, sha256, before_us)

    def delete(self, tenant: str, sha256: str) -> None:
        """Deletes a blob; does nothing if there is none.

        Raises:
            FailedPrecondition: STORE_READ_ONLY.
        """
        check_id(tenant, field="tenant")
        check_sha256(sha256)
        with self._errors():
            self._delete(tenant, sha256)

    @abstractmethod
    def check(self) -> None:
        """Returns if the store answers; cheap, for readiness probes.

        Raises:
            MeshError: Why it does not.
        """

    @staticmethod
    def _not_found(tenant: str, sha256: str) -> NotFound:
        return NotFound("BLOB_NOT_FOUND", f"tenant {tenant} has no blob {sha256}")

    @abstractmethod
    def _errors(self) -> AbstractContextManager[None]:
        """Turns the errors of the storage engine into MeshErrors."""

    @abstractmethod
    def _room(self) -> int | None:
        """Returns how many bytes more fit; None if the store does not know."""

    @abstractmethod
    def _spool(self) -> AbstractContextManager[BinaryIO]:
        """Opens a temporary file, which is gone when the context ends, or at the latest when a store is next opened."""

    @abstractmethod
    def _publish(self, file: BinaryIO, artifact: Artifact) -> None:
        """Makes a spooled file the blob, durably and in one step."""

    @abstractmethod
    def _open(self, tenant: str, sha256: str) -> Iterator[bytes]:
        """Yields the stored bytes; NotFound before the first."""

    @abstractmethod
    def _size(self, tenant: str, sha256: str) -> int | None:
        """Returns the stored length, None if there is no such blob."""

    @abstractmethod
    def _holds(self, tenant: str, sha256: str, size_bytes: int) -> bool:
        """Returns whether such a blob is stored; if so, its age is new and no `_expire` under way will take it."""

    @abstractmethod
    def _entries(self, tenant: str) -> Iterator[Stored]:
        """Yields a tenant's blobs in ascending order; errors as MeshErrors."""

    @abstractmethod
    def _expire(self, tenant: str, sha256: str, before_us: int) -> bool:
        """Removes a blob that was last put before a time; a put either prevents it or finds the blob gone."""

    @abstractmethod
    def _delete(self, tenant: str, sha256: str) -> None:
        """Removes a blob if there is one."""


def write_whole(path: Path, chunks: Iterable[bytes], what: str = "") -> None:
    """Writes a file that appears whole or, if `chunks` or the disk fails, not at all; a file there is replaced.

    Args:
        path: The file.
        chunks: Its content.
        what: Kind of content, for errors; needed if callers of a service will read them, since they see no path.

    Raises:
        ResourceExhausted: DISK_FULL.
        FailedPrecondition: DISK_READ_ONLY.
        Unavailable: DISK_UNAVAILABLE.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".fetch-", delete=False) as file:
            temporary = Path(file.name)
            for chunk in chunks:
                file.write(chunk)
        temporary.replace(path)
    except OSError as error:
        raise disk_error(error, path, what) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # a disk that has just failed
                temporary.unlink(missing_ok=True)


def disk_error(error: OSError, path: Path, what: str = "") -> MeshError:
    """Returns the error for a local file that could not be read or written: DISK_FULL, _READ_ONLY, _UNAVAILABLE.

    Args:
        error: Error of the system.
        path: The file; callers of a service do not see it.
        what: Kind of content, for callers.
    """
    where = f"{what} in {path}" if what else str(path)
    if error.errno in FULL:
        return ResourceExhausted("DISK_FULL", f"no space left for {where}; free some and try again", field="path")
    message = f"{where} cannot be used: {error.strerror}"
    if error.errno in READ_ONLY:
        return FailedPrecondition("DISK_READ_ONLY", message, field="path")
    return Unavailable("DISK_UNAVAILABLE", message, field="path", retry_delay_s=1)


def blob_key(tenant: str, sha256: str) -> str:
    """Returns a blob's path relative to the store's root; 256 folders keep each of them listable."""
    return f"{tenant}/sha256/{sha256[:2]}/{sha256}"


def _chunks(source: bytes | Path) -> Iterator[bytes]:
    if isinstance(source, bytes):
        for start in range(0, len(source), CHUNK_BYTES):
            yield source[start : start + CHUNK_BYTES]
        return
    with source.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _digest(chunks: Iterable[bytes]) -> tuple[str, int]:
    digest = hashlib.sha256()
    size_bytes = 0
    for chunk in chunks:
        digest.update(chunk)
        size_bytes += len(chunk)
    return digest.hexdigest(), size_bytes


def _check_expected(sha256: str, expected_sha256: str | None) -> None:
    if expected_sha256 not in (None, sha256):
        raise InvalidArgument(
            "DIGEST_MISMATCH",
            f"the content's SHA-256 is {sha256}, not {expected_sha256}; it was damaged on its way",
            field="sha256",
        )
