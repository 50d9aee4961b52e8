"""Liveness and readiness, reported by the gRPC health protocol.

The health of the service `""` is the server's liveness: SERVING while the server runs. The health of a named service is
its readiness: SERVING while its dependencies respond. An orchestrator restarts a server that is not live, and routes
calls only to servers that are ready. Since a dependency may hang, one thread runs the readiness check, and another
thread reports the check as failed if it is overdue.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2
from grpc_status import rpc_status

from common.errors import MeshError, ResourceExhausted
from common.server.status import to_status

INTERVAL_S = 0.5
"""Seconds between two readiness checks."""

OVERDUE_S = 5.0
"""Seconds after which a check that is still running counts as failed, until it returns."""

MAX_WATCHES = 100
"""Maximum number of open watches of all callers together. Health checks bypass the limits on other calls."""

_NO_SERVICE = health_pb2.HealthCheckRequest(service="no request")

STOP_S = 1.0
"""Seconds for which `Readiness.stop` waits for a running check."""

_logger = logging.getLogger(__name__)


def health_request(data: bytes) -> health_pb2.HealthCheckRequest:
    """Parses a request. Bytes that cannot be parsed become a request for an unknown service."""
    try:
        return health_pb2.HealthCheckRequest.FromString(data)
    except DecodeError:
        return _NO_SERVICE


class _Watch:
    """An open call of the method `Watch`."""

    def __init__(self, service: str, context: grpc.ServicerContext, send: Callable[[Any], None]) -> None:
        self.service = service
        self.context = context
        self.send = send
        self.lock = threading.Lock()
        self.sent: int | None = None


class Readiness(health.HealthServicer):
    """Answers health checks with the result of a periodic check. Thread-safe.

    Args:
        names: Names of the services whose readiness is reported.
        ready: Readiness check, which may raise a MeshError and may hang.
        overdue_s: Seconds after which a check that is still running counts as failed.
    """

    def __init__(self, names: Sequence[str], ready: Callable[[], bool], *, overdue_s: float = OVERDUE_S) -> None:
        super().__init__()
        self._names = names
        self._ready = ready
        self._overdue_s = overdue_s
        self._state_lock = threading.Lock()
        self._check_began_s: float | None = None  # start of the running check; None if none is running
        self._was_ready: bool | None = None
        self._watches: set[_Watch] = set()  # only changed by operations that are atomic in CPython
        self._stopping = threading.Event()
        self._checked = threading.Event()
        self._checker = threading.Thread(target=self._check_periodically, name="readiness", daemon=True)
        self._watcher = threading.Thread(target=self._watch_for_overdue, name="readiness-overdue", daemon=True)
        self._set(ready=False)

    def start(self) -> None:
        """Starts the periodic check. Returns once the first check has a result or is overdue."""
        self._checker.start()
        self._watcher.start()
        self._checked.wait(self._overdue_s)

    def stop(self) -> None:
        """Reports NOT_SERVING from now on, and ends all watches, since open watches keep the server from stopping.

        A hanging check is abandoned; its thread does not keep the process alive.
        """
        self._stopping.set()
        self.enter_graceful_shutdown()
        for watch in list(self._watches):
            self._send_status(watch)
            watch.context.cancel()
        if self._checker.is_alive():
            self._checker.join(STOP_S)

    def Watch(self, request: Any, context: grpc.ServicerContext, send_response_callback: Any = None) -> None:
        """Sends the status immediately and after every change.

        Replaces the method of grpcio-health-checking, which can deadlock the server: that method holds a lock while it
        sends, and gRPC's only event thread may need the lock to report the end of another watch.
        """
        if len(self._watches) >= MAX_WATCHES:
            message = f"this server has {MAX_WATCHES} open watches, the maximum; call Check instead"
            context.abort_with_status(rpc_status.to_status(to_status(ResourceExhausted("TOO_MANY_WATCHES", message))))
        watch = _Watch(request.service, context, send_response_callback)
        self._watches.add(watch)
        if context.add_callback(lambda: self._watches.discard(watch)):
            self._send_status(watch)
        else:
            self._watches.discard(watch)

    def _send_status(self, watch: "_Watch") -> None:
        """Sends the current status to a watch, unless the watch already has it."""
        response = health_pb2.HealthCheckResponse
        with watch.lock:
            with self._lock:
                status = self._server_status.get(watch.service, response.SERVICE_UNKNOWN)
            if status != watch.sent:
                watch.sent = status
                watch.send(response(status=status))

    def _check_periodically(self) -> None:
        while True:
            self._check_once()
            self._checked.set()
            if self._stopping.wait(INTERVAL_S):
                return

    def _watch_for_overdue(self) -> None:
        while not self._stopping.wait(min(INTERVAL_S, self._overdue_s)):
            with self._state_lock:
                if self._check_began_s is not None and time.monotonic() - self._check_began_s > self._overdue_s:
                    self._report(
                        False, "CHECK_OVERDUE", f"its readiness check has been running for {self._overdue_s:g} s"
                    )

    def _check_once(self) -> None:
        with self._state_lock:
            self._check_began_s = time.monotonic()
        reason, message = "NOT_READY", "its readiness check failed"
        try:
            ready = self._ready()
        except MeshError as error:
            ready, reason, message = False, error.reason, error.message
        except Exception:  # a bug in a check must not leave the previous result in place
            _logger.exception("bug in the readiness check")
            ready = False
        with self._state_lock:
            self._check_began_s = None
            self._report(ready, reason, message)

    def _report(self, ready: bool, reason: str, message: str) -> None:
        if ready == self._was_ready or self._stopping.is_set():
            return
        if ready:
            _logger.info("ready")
        else:
            _logger.warning("not ready: %s", message, extra={"reason": reason})
        self._was_ready = ready
        self._set(ready=ready)

    def _set(self, *, ready: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for name in self._names:
            self.set(name, status.SERVING if ready else status.NOT_SERVING)
        for watch in list(self._watches):
            self._send_status(watch)
