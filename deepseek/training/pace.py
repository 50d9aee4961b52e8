"""Decides when to save next: often enough to lose little work, and rarely enough that saving costs little time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MAX_SHARE = 0.05
"""Largest part of a run's time that saving may take."""


class Pace:
    """Decides when to save, by how long all saves so far have taken.

    Args:
        interval_s: Shortest time between two saves, seconds.
        clock: Returns the time in seconds.
    """

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._began_at = self._saved_at = clock()
        self._cost_s = 0.0

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        now = self._clock()
        is_affordable = self._cost_s <= MAX_SHARE * (now - self._began_at)
        return is_affordable and now - self._saved_at >= self._interval_s

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Wraps a save, successful or not, and measures its cost."""
        began_at = self._clock()
        try:
            yield
        finally:
            self._saved_at = self._clock()
            self._cost_s += self._saved_at - began_at
