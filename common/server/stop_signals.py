"""Waits for the signals that stop a server."""

import signal
from contextlib import suppress
from queue import Empty, SimpleQueue


class StopSignals:
    """Catches SIGTERM and SIGINT from its creation on, which must be in the main thread.

    A handler that set a threading.Event would wait for ever if its signal arrived while the same thread held the
    event's lock, as a waiting thread does from time to time. `SimpleQueue.put` may be called at any moment.
    """

    def __init__(self) -> None:
        self._received: SimpleQueue[int] = SimpleQueue()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._received.put(number))

    def wait(self, poll_s: float = 0.2) -> int:
        """Waits until one of the signals has been received.

        Args:
            poll_s: Seconds after which it looks again. A single wait would not end on a signal that another thread
                receives, or that arrives just as the wait begins.

        Returns:
            The signal's number.
        """
        while True:
            with suppress(Empty):
                return self._received.get(timeout=poll_s)
