"""Decides when to save a run, so that a failure loses little work and saving takes little time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MAX_SHARE = 0.05
"""Maximum share of a run's time that saving may take."""


class SaveSchedule:
    """Decides when to save, based on the total duration of the saves so far.

    Args:
        interval_s: Minimum time between two saves, in seconds.
        clock: Function that returns the time in seconds.
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
        """Wraps a save and measures how long it takes, even if it fails."""
        began_at = self._clock()
        try:
            yield
        finally:
            self._saved_at = self._clock()
            self._cost_s += self._saved_at - began_at
