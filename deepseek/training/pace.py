"""When to save next: often enough to lose little, and seldom enough that saving costs little."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MAX_SHARE = 0.05
"""Largest part of a run's time that saving may take, in the long run."""


class Pace:
    """Spaces saves out by what the last one cost.

    Args:
        interval_s: Shortest time between two saves, seconds.
        clock: Returns seconds.
    """

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._pause_s = interval_s
        self._saved_at = clock()

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
            self._pause_s = max(self._interval_s, (self._saved_at - began_at) * (1 / MAX_SHARE - 1))
