"""Keeps the results of a search in a file, one JSON object per line, so that an interrupted search resumes.

A line is written and flushed as soon as its result is known. A line that a crash cut short is dropped.
"""

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import FailedPrecondition


class Records:
    """Results by kind and key. Thread-safe; one process at a time may write a file.

    Args:
        path: The file; created if missing. None to keep results in memory only.

    Raises:
        FailedPrecondition: BAD_RECORDS if the file contains anything else.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()
        if path is not None and path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            if lines and not lines[-1].endswith(b"\n"):
                lines.pop()
                os.truncate(path, sum(map(len, lines)))  # writing the file again could lose all of it
            for number, line in enumerate(lines, 1):
                try:
                    record = json.loads(line)
                    self._known[record["kind"], _text(record["key"])] = record["value"]
                except (ValueError, TypeError, KeyError) as error:
                    message = (
                        f"line {number} of {path} is not a record of a search; delete the line or use another file"
                    )
                    raise FailedPrecondition("BAD_RECORDS", message) from error

    def has(self, kind: str, key: Any) -> bool:
        """Returns whether there is a result."""
        return (kind, _text(key)) in self._known

    def get(self, kind: str, key: Any) -> Any:
        """Returns a result that exists."""
        return self._known[kind, _text(key)]

    def put(self, kind: str, key: Any, value: Any) -> None:
        """Stores a result.

        Args:
            kind: Kind of the result.
            key: JSON value that identifies it among those of its kind.
            value: JSON value.
        """
        with self._lock:
            self._known[kind, _text(key)] = value
            if self._path is not None:
                line = json.dumps({"kind": kind, "key": key, "value": value}) + "\n"
                with self._path.open("ab", buffering=0) as file:
                    size = file.tell()
                    try:
                        if file.write(line.encode()) < len(line.encode()):
                            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
                    except OSError:  # e.g. the disk is full; the next record must not continue half a line
                        file.truncate(size)
                        raise

    def get_or(self, kind: str, key: Any, make: Callable[[], Any]) -> Any:
        """Returns a result; if there is none, computes and stores it."""
        if not self.has(kind, key):
            self.put(kind, key, make())
        return self.get(kind, key)


def _text(key: Any) -> str:
    return json.dumps(key, sort_keys=True)
