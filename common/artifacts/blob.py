"""What all stores have in common: the keys, chunks and digests of blobs."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1 << 20
"""Size in bytes of the chunks that are read, hashed and written, so that large blobs need little memory."""


@dataclass(frozen=True)
class BlobInfo:
    """A blob in the listing of a store.

    Attributes:
        sha256: Digest of the content.
        size_bytes: Size of the content.
        stored_us: Time at which the content was last stored, in UTC microseconds, according to the store's clock. The
            resolution may be as coarse as one second.
    """

    sha256: str
    size_bytes: int
    stored_us: int


def blob_key(tenant: str, sha256: str) -> str:
    """Returns a blob's path relative to the store's root. A tenant's blobs are spread over 256 folders."""
    return f"{tenant}/sha256/{sha256[:2]}/{sha256}"


def chunks_of(source: bytes | Path) -> Iterator[bytes]:
    """Yields the content in chunks of at most `CHUNK_BYTES`."""
    if isinstance(source, bytes):
        for start in range(0, len(source), CHUNK_BYTES):
            yield source[start : start + CHUNK_BYTES]
        return
    with source.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def digest_of(chunks: Iterable[bytes]) -> tuple[str, int]:
    """Returns the SHA-256 digest of the content and its size in bytes."""
    digest = hashlib.sha256()
    size_bytes = 0
    for chunk in chunks:
        digest.update(chunk)
        size_bytes += len(chunk)
    return digest.hexdigest(), size_bytes
