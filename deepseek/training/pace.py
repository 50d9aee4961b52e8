"""When to save next: often enough to lose little, and seldom enough that saving costs little."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MAX_SHARE = 0.05
"""Largest part of a run's time that saving may take, in the long run."""
_NUM_COSTS = 3


class Pace:
    """Spaces saves out by what they cost: the cheapest of the last three, since a store may stall once.

    Args:
        interval_s: Shortest time between two saves, seconds.
        clock: Returns seconds.
    """

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._pause_s = interval_s
        self._saved_at = clock()
        self._costs_s: deque[float] = deque(maxlen=_NUM_COSTS)

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return self._clock() - self._saved_at >= self._pause_s

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around a save, whether it succeeds or not; measures what it costs."""
        began_at = self._clock()
        try:
            yield
        finally:
            self._saved_at = self._clock()
            self._costs_s.append(self._saved_at - began_at)
            self._pause_s = max(self._interval_s, min(self._costs_s) * (1 / MAX_SHARE - 1))
