"""Turns: images take gigabytes of memory, and images and texts whole cores, so only so many are worked on at once."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from common import deadline
from common.errors import DeadlineExceeded, ResourceExhausted


class _Waiter:
    def __init__(self, patient: bool) -> None:
        self.patient = patient
        self.has_turn = threading.Event()


class Turns:
    """Lets so many in at once, first come, first served. Thread-safe.

    Args:
        num_at_once: How many.
        max_waiting: Calls that may wait for their turn, besides those that wait as long as it takes.
    """

    def __init__(self, num_at_once: int, max_waiting: int) -> None:
        self._num_free = num_at_once
        self._max_waiting = max_waiting
        self._waiters: deque[_Waiter] = deque()
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
        waiter = self._enter(patient)
        if waiter and not waiter.has_turn.wait(deadline.within(None)) and not self._has_turn_or_leaves(waiter):
            raise DeadlineExceeded("DEADLINE_EXCEEDED", "the deadline passed while the call waited for its turn")
        try:
            yield
        finally:
            self._leave()

    def _enter(self, patient: bool) -> _Waiter | None:
        """Takes a turn that is free, or queues; a turn is free only while nobody waits."""
        with self._lock:
            if self._num_free:
                self._num_free -= 1
                return None
            num_waiting = sum(not waiter.patient for waiter in self._waiters)
            if not patient and num_waiting >= self._max_waiting:
                message = f"{num_waiting} calls wait for their turn already; try again later"
                raise ResourceExhausted("TOO_MANY_CALLS", message, retry_delay_s=1.0)
            self._waiters.append(_Waiter(patient))
            return self._waiters[-1]

    def _has_turn_or_leaves(self, waiter: _Waiter) -> bool:
        with self._lock:
            if not waiter.has_turn.is_set():
                self._waiters.remove(waiter)
            return waiter.has_turn.is_set()

    def _leave(self) -> None:
        with self._lock:
            if self._waiters:
                self._waiters.popleft().has_turn.set()
            else:
                self._num_free += 1
