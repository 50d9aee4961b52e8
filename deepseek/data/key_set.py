"""A set of keys that uses little memory, however many keys it holds."""

import sqlite3
from types import TracebackType
from typing import Self

MEMORY_KEYS = 100_000
"""Number of keys that are held in memory. When there are more, all move to a temporary database."""


class KeySet:
    """A growing set of keys, most of which are on disk if there are many.

    Use it as a context manager. Not thread-safe, but different threads may use it one after the other.

    >>> with KeySet() as keys:
    ...     keys.add("a"), keys.add("b"), keys.add("a")
    (True, True, False)
    """

    def __init__(self) -> None:
        self._recent: set[bytes] = set()
        self._database: sqlite3.Connection | None = None

    def add(self, key: str | bytes) -> bool:
        """Adds a key, and returns whether it is new."""
        stored = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
        if stored in self._recent or self._is_on_disk(stored):
            return False
        self._recent.add(stored)
        if len(self._recent) >= MEMORY_KEYS:
            self._spill()
        return True

    def close(self) -> None:
        """Deletes the database."""
        if self._database:
            self._database.close()

    def _is_on_disk(self, key: bytes) -> bool:
        return bool(self._database and self._database.execute("SELECT 1 FROM keys WHERE key = ?", (key,)).fetchone())

    def _spill(self) -> None:
        if self._database is None:
            self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._database.execute("CREATE TABLE keys (key PRIMARY KEY) WITHOUT ROWID")
            self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO keys VALUES (?)", ((key,) for key in sorted(self._recent)))
        self._recent.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
