"""Turns: images take memory by the gigabyte, and texts like them cores as a whole, so few are worked on at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from common import deadline
from common.errors import DeadlineExceeded, ResourceExhausted


class Turns:
    """Lets so many in at once. Thread-safe.

    Args:
        num_at_once: How many.
        max_waiting: Calls that may wait for their turn, besides those that wait as long as it takes.
    """

    def __init__(self, num_at_once: int, max_waiting: int) -> None:
        self._free = threading.BoundedSemaphore(num_at_once)
        self._max_waiting = max_waiting
        self._num_waiting = 0
        self._lock = threading.Lock()

    @contextmanager
    def take(self, *, patient: bool) -> Iterator[None]:
        """Waits for a turn, which lasts as long as the block.

        Args:
            patient: Whether to wait however many do, as streams do: they hold a thread anyway, and their next request
                can wait.

        Raises:
            ResourceExhausted: TOO_MANY_CALLS if too many wait already.
            DeadlineExceeded: The call's deadline passed.
        """
        if not self._free.acquire(blocking=False):
            self._wait(patient)
        try:
            yield
        finally:
            self._free.release()

    def _wait(self, patient: bool) -> None:
        with self._lock:
            if not patient and self._num_waiting >= self._max_waiting:
                message = f"{self._num_waiting} calls wait for their turn already; try again later"
                raise ResourceExhausted("TOO_MANY_CALLS", message, retry_delay_s=1.0)
            self._num_waiting += not patient
        try:
            has_turn = self._free.acquire(timeout=deadline.within(None))
        finally:
            with self._lock:
                self._num_waiting -= not patient
        if not has_turn:
            raise DeadlineExceeded("DEADLINE_EXCEEDED", "the deadline passed while the call waited for its turn")
