"""A TCP proxy on loopback that breaks and delays connections as a network does: neither side learns why."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Proxy:
    """Relays bytes between its clients and a server. A context manager that ends every connection.

    Args:
        target: `host:port` of the server, or the path of its Unix socket.

    Attributes:
        delay_s: Delay of every piece of up to 64 KiB, in seconds.
    """

    def __init__(self, target: str) -> None:
        self.delay_s = 0.0
        self._target = target
        self._refusing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Event] = {}
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def address(self) -> str:
        """`host:port` that clients connect to."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Breaks every open connection; new ones are accepted."""
        with self._lock:
            for connection in self._open:
                _shut(connection)

    def stall(self) -> None:
        """Leaves every open connection half-open: bytes from either side are dropped, and neither learns that the
        other is gone. New connections are accepted."""
        with self._lock:
            for silent in self._open.values():
                silent.set()

    def refuse(self) -> None:
        """Breaks every connection and refuses new ones until `accept`, as if the server were down."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        """Accepts connections again."""
        self._refusing = False

    def redirect(self, target: str) -> None:
        """Breaks every connection and directs new ones to another server."""
        self._target = target
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _shut(self._listener)
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _start(self, run: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=run, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with self._listener, contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    if self._refusing:
                        raise ConnectionRefusedError
                    server = _connect(self._target)
                except OSError:
                    client.close()
                    continue
                silent = threading.Event()
                with self._lock:
                    self._open |= {client: silent, server: silent}
                self._start(self._relay, client, server, silent)

    def _relay(self, client: socket.socket, server: socket.socket, silent: threading.Event) -> None:
        back = threading.Thread(target=self._pump, args=(server, client, silent))
        back.start()
        self._pump(client, server, silent)
        back.join()
        with self._lock:
            del self._open[client], self._open[server]
        client.close()
        server.close()

    def _pump(self, source: socket.socket, sink: socket.socket, silent: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self.delay_s:
                    time.sleep(self.delay_s)
                if not silent.is_set():
                    sink.sendall(data)
        if not silent.is_set():
            _shut(source)
            _shut(sink)


def _connect(target: str) -> socket.socket:
    if not target.startswith("/"):
        host, _, port = target.rpartition(":")
        return socket.create_connection((host, int(port)))
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(target)
    except OSError:
        server.close()
        raise
    return server


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
