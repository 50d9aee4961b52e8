"""Watches: response streams that stay open until everything is reported, the client disconnects or the server stops.

A server cannot stop while a handler waits for changes, so servicers close their watches before the server stops.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from common.errors import Unavailable


class Watches:
    """The open watches of one servicer. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._open: set[threading.Event] = set()

    def __len__(self) -> int:
        with self._lock:
            return len(self._open)

    @contextmanager
    def open(self, context: grpc.ServicerContext) -> Iterator[threading.Event]:
        """Counts a stream as an open watch within the `with` block.

        Yields:
            An event that is set when the stream must end because the client disconnected or `close` was called.
        """
        stop = threading.Event()
        with self._lock:
            if self._closed or not context.add_callback(stop.set):
                stop.set()
            self._open.add(stop)
        try:
            yield stop
        finally:
            with self._lock:
                self._open.discard(stop)

    @staticmethod
    def check(stop: threading.Event) -> None:
        """Raises an error if `stop`, the event that `open` yielded, is set.

        Raises:
            Unavailable: SERVER_STOPPING. The client should watch again.
        """
        if stop.is_set():
            raise Unavailable("SERVER_STOPPING", "the service is stopping; watch again", retry_delay_s=1)

    def close(self) -> None:
        """Ends all watches. Watches that are opened later end immediately."""
        with self._lock:
            self._closed = True
            for stop in self._open:
                stop.set()
