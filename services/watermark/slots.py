"""Work slots, which limit how many images and texts are processed at once.

Processing an image or text keeps a core busy, and processing an image may take gigabytes of memory.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from common import deadline
from common.errors import DeadlineExceeded, ResourceExhausted


class _Waiter:
    def __init__(self, may_queue_freely: bool) -> None:
        self.may_queue_freely = may_queue_freely
        self.has_slot = threading.Event()


class WorkSlots:
    """A fixed number of slots, assigned in order of arrival. Thread-safe.

    Args:
        num_slots: Number of slots.
        max_waiting: Maximum number of queued calls, not counting calls that may queue freely.
    """

    def __init__(self, num_slots: int, max_waiting: int) -> None:
        self._num_free = num_slots
        self._max_waiting = max_waiting
        self._waiters: deque[_Waiter] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def acquire(self, *, may_queue_freely: bool) -> Iterator[None]:
        """Waits for a slot, and holds it inside the `with` block.

        Args:
            may_queue_freely: Whether the call may queue even if the queue is full. Calls in a stream may, because a
                stream occupies a thread anyway, and the stream's next request can wait.

        Raises:
            ResourceExhausted: TOO_MANY_CALLS if the queue is full.
            DeadlineExceeded: The call's deadline passed.
        """
        waiter = self._enter(may_queue_freely)
        if waiter and not waiter.has_slot.wait(deadline.within(None)) and not self._has_slot_or_leaves(waiter):
            raise DeadlineExceeded(
                "DEADLINE_EXCEEDED", "the deadline passed while the call was queued; allow more time"
            )
        try:
            yield
        finally:
            self._release()

    def _enter(self, may_queue_freely: bool) -> _Waiter | None:
        """Takes a free slot or, if there is none, joins the queue. While calls are queued, no slot is free."""
        with self._lock:
            if self._num_free:
                self._num_free -= 1
                return None
            num_waiting = sum(not waiter.may_queue_freely for waiter in self._waiters)
            if not may_queue_freely and num_waiting >= self._max_waiting:
                message = f"{num_waiting} calls are already queued; try again later"
                raise ResourceExhausted("TOO_MANY_CALLS", message, retry_delay_s=1.0)
            self._waiters.append(_Waiter(may_queue_freely))
            return self._waiters[-1]

    def _has_slot_or_leaves(self, waiter: _Waiter) -> bool:
        with self._lock:
            if not waiter.has_slot.is_set():
                self._waiters.remove(waiter)
            return waiter.has_slot.is_set()

    def _release(self) -> None:
        with self._lock:
            if self._waiters:
                self._waiters.popleft().has_slot.set()
            else:
                self._num_free += 1
