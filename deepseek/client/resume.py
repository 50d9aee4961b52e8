"""Resumes streams after their service has been restarted."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from common.errors import Unavailable

PATIENCE_S = 30.0
"""Time without progress, in seconds, after which a client no longer retries an unavailable service."""
RETRY_INTERVAL_S = 0.2

Response = TypeVar("Response")


class Patience:
    """A timer that runs out when a service has made no progress for too long to keep retrying. Not thread-safe.

    Args:
        patience_s: Maximum time without progress, in seconds.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self.progressed()

    def progressed(self) -> None:
        """Restarts the timer. Call this method after each sign of progress."""
        self._last_progress = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether more than `patience_s` seconds have passed since the last progress."""
        return time.monotonic() - self._last_progress > self._patience_s


def resumed(open_stream: Callable[[], Iterable[Response]], *, patience_s: float = PATIENCE_S) -> Iterator[Response]:
    """Yields the responses of a stream, and reopens the stream when its service is unavailable.

    Args:
        open_stream: Opens a stream of only those responses that have not been yielded yet.
        patience_s: Time in seconds. If the service is unavailable, the stream is reopened until this function has
            waited this long for the next response. Time that the caller spends on a response does not count.

    Raises:
        Unavailable: The service is still unavailable after `patience_s` seconds without a response.
    """
    patience = Patience(patience_s)
    while True:
        try:
            for response in open_stream():
                yield response
                patience.progressed()
            return
        except Unavailable:
            if patience.is_over:
                raise
        time.sleep(RETRY_INTERVAL_S)
