"""The deadline of the call that a thread answers: what it asks of others meanwhile may take no longer.

Python cannot stop a thread from outside, so a handler ends in time because everything that it waits for does: calls to
other services take the time that is left (`common.channel`), databases and stores have bounds of their own.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_end_s: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def until(end_s: float | None) -> Iterator[None]:
    """Sets the deadline of what this thread does in the block.

    Args:
        end_s: On the monotonic clock; None means none.
    """
    token = _end_s.set(end_s)
    try:
        yield
    finally:
        _end_s.reset(token)


def within(timeout_s: float | None) -> float | None:
    """The shorter of a timeout and the time that is left, never below 0; None if there is neither."""
    end_s = _end_s.get()
    if end_s is None:
        return timeout_s
    left_s = max(0.0, end_s - time.monotonic())
    return left_s if timeout_s is None else min(timeout_s, left_s)
