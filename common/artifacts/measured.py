"""A store that tells how long its operations take; everything else is the store's that it wraps."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO

from common.artifacts.artifact import Artifact
from common.artifacts.store import ArtifactStore, Stored
from common.errors import MeshError

Observe = Callable[[str, str, float], None]
"""Takes operation, outcome (`OK` or an error's code) and seconds."""


class MeasuredStore(ArtifactStore):
    """Wraps a store.

    Args:
        store: Does the work.
        observe: Told of every operation on what is stored: `publish`, `open` (until its reader is done), `holds`,
            `size`, `list` and `delete`; called from many threads.
    """

    def __init__(self, store: ArtifactStore, observe: Observe) -> None:
        self._store = store
        self._observe = observe

    def check(self) -> None:
        """See `ArtifactStore.check`; probes are not counted."""
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

    def _holds(self, tenant: str, sha256: str, size_bytes: int) -> bool:
        with self._measured("holds"):
            return self._store._holds(tenant, sha256, size_bytes)

    def _room(self) -> int | None:
        return self._store._room()

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

    def _entries(self, tenant: str) -> Iterator[Stored]:
        with self._measured("list"):
            yield from self._store._entries(tenant)

    def _expire(self, tenant: str, sha256: str, before_us: int) -> bool:
        with self._measured("delete"):
            return self._store._expire(tenant, sha256, before_us)

    def _delete(self, tenant: str, sha256: str) -> None:
        with self._measured("delete"):
            self._store._delete(tenant, sha256)
