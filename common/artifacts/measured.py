"""A wrapper around an artifact store that measures the duration of the store's operations."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO

from common.artifacts.artifact import Artifact
from common.artifacts.blob import BlobInfo
from common.artifacts.store import ArtifactStore
from common.errors import MeshError

Observe = Callable[[str, str, float], None]
"""A function that receives an operation, its outcome (`OK` or the code of the error) and its duration in seconds."""


class MeasuredStore(ArtifactStore):
    """A store that measures the operations of another store.

    Args:
        store: The store to measure.
        observe: Function called after every operation on stored blobs, possibly from several threads at once. The
            operations are `publish`, `open` (which lasts until the reader is done), `holds`, `size`, `list` and
            `delete`.
    """

    def __init__(self, store: ArtifactStore, observe: Observe) -> None:
        self._store = store
        self._observe = observe

    def check(self) -> None:
        """See `ArtifactStore.check`. Checks are not measured."""
        self._store.check()

    @contextmanager
    def _measured(self, operation: str) -> Iterator[None]:
        start = time.perf_counter()
        outcome = "OK"
        try:
            with self._store._errors():
                yield
        except MeshError as error:
            outcome = error.code
            raise
        finally:
            self._observe(operation, outcome, time.perf_counter() - start)

    def _errors(self) -> AbstractContextManager[None]:
        return self._store._errors()

    def _touch(self, tenant: str, sha256: str, size_bytes: int) -> bool:
        with self._measured("holds"):
            return self._store._touch(tenant, sha256, size_bytes)

    def _free_bytes(self) -> int | None:
        return self._store._free_bytes()

    def _spool(self) -> AbstractContextManager[BinaryIO]:
        return self._store._spool()

    def _publish(self, file: BinaryIO, artifact: Artifact) -> None:
        with self._measured("publish"):
            self._store._publish(file, artifact)

    def _open(self, tenant: str, sha256: str) -> Iterator[bytes]:
        with self._measured("open"):
            yield from self._store._open(tenant, sha256)

    def _size(self, tenant: str, sha256: str) -> int | None:
        with self._measured("size"):
            return self._store._size(tenant, sha256)

    def tenants(self) -> Iterator[str]:
        """See `ArtifactStore.tenants`."""
        with self._measured("list"):
            yield from self._store.tenants()

    def _entries(self, tenant: str) -> Iterator[BlobInfo]:
        with self._measured("list"):
            yield from self._store._entries(tenant)

    def _expire(self, tenant: str, sha256: str, before_us: int) -> bool:
        with self._measured("delete"):
            return self._store._expire(tenant, sha256, before_us)

    def _delete(self, tenant: str, sha256: str) -> None:
        with self._measured("delete"):
            self._store._delete(tenant, sha256)
