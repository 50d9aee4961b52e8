"""Wakes the watchers of a study when this process has changed it. Changes of other processes are not noticed here."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Watcher:
    """The watchers of one study. Created by `Changes`.

    Attributes:
        num_changes: Number of changes since the first of the present watchers came.
    """

    def __init__(self) -> None:
        self.num_changes = 0
        self.num_watchers = 0
        self._changed = threading.Condition()

    def wait(self, seen: int, timeout_s: float) -> None:
        """Waits until `num_changes` differs from a number that was read before, or until a timeout."""
        with self._changed:
            if self.num_changes == seen:
                self._changed.wait(timeout_s)

    def wake(self) -> None:
        """Counts a change."""
        with self._changed:
            self.num_changes += 1
            self._changed.notify_all()


class Changes:
    """Changes of all studies. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[tuple[str, str], Watcher] = {}

    @contextmanager
    def watching(self, tenant: str, study_id: str) -> Iterator[Watcher]:
        """Yields what wakes the watchers of a study."""
        key = (tenant, study_id)
        with self._lock:
            watcher = self._watched.setdefault(key, Watcher())
            watcher.num_watchers += 1
        try:
            yield watcher
        finally:
            with self._lock:
                watcher.num_watchers -= 1
                if not watcher.num_watchers:
                    del self._watched[key]

    def notify(self, tenant: str, study_id: str) -> None:
        """Wakes the watchers of a study."""
        with self._lock:
            watcher = self._watched.get((tenant, study_id))
        if watcher is not None:
            watcher.wake()

    def notify_all(self) -> None:
        """Wakes the watchers of all studies."""
        with self._lock:
            watched = list(self._watched.values())
        for watcher in watched:
            watcher.wake()
