"""The deadline of the call that a thread is handling, which also limits the calls that the handler makes.

Python cannot stop a thread from outside, so a handler ends in time only if everything that it waits for ends in time.
Calls to other services get the remaining time as their deadline (`common.channel`); databases and stores have their own
limits.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_end_s: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def until(end_s: float | None) -> Iterator[None]:
    """Sets the deadline of this thread within the `with` block.

    Args:
        end_s: Deadline in seconds on the monotonic clock; None means no deadline.
    """
    token = _end_s.set(end_s)
    try:
        yield
    finally:
        _end_s.reset(token)


def within(timeout_s: float | None) -> float | None:
    """Returns the smaller of a timeout and the time until the deadline, at least 0; None if there is neither."""
    end_s = _end_s.get()
    if end_s is None:
        return timeout_s
    left_s = max(0.0, end_s - time.monotonic())
    return left_s if timeout_s is None else min(timeout_s, left_s)
