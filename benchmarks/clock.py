"""A clock for work that may be interrupted: it adds up the time of all processes that did the work."""

import threading
import time
from types import TracebackType
from typing import Any

from deepseek.nas.records import Records

INTERVAL_S = 2.0
"""Seconds between two stored times; a process that is killed loses at most this much."""


class Clock:
    """Adds the time of a `with` block to the time that earlier processes stored. Work that an interruption lost counts.

    Args:
        records: File of results, in which the time is stored.
        key: JSON value that identifies the work.
        interval_s: Seconds between two stored times.
    """

    def __init__(self, records: Records, key: Any, *, interval_s: float = INTERVAL_S) -> None:
        self._records = records
        self._key = key
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)

    @property
    def seconds(self) -> float:
        """The time so far, as it was stored last."""
        return float(self._records.get("clock", self._key)) if self._records.has("clock", self._key) else 0.0

    def __enter__(self) -> "Clock":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        before, started = self.seconds, time.monotonic()
        while True:
            ended = self._ended.wait(self._interval_s)
            self._records.put("clock", self._key, before + time.monotonic() - started)
            if ended:
                return
