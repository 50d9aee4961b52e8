"""Health by the gRPC health protocol: alive, and ready.

`""` is alive as long as the server runs, a service's name is ready as long as what it depends on answers. Restarts
follow the first, traffic the second. What does not answer at all counts as away: one thread asks and may hang, another
notices.
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
"""How often a server asks itself whether it is ready."""

OVERDUE_S = 5.0
"""A check that takes longer counts as a no until it answers."""

MAX_WATCHES = 100
"""Watches that may be open at once, of all callers together: health checks pass the limits of other calls."""

_NO_SERVICE = health_pb2.HealthCheckRequest(service="no request")

STOP_S = 1.0
"""How long a stop waits for the check that is under way."""

_logger = logging.getLogger(__name__)


def health_request(data: bytes) -> health_pb2.HealthCheckRequest:
    """Parses a request; bytes that are none ask for a service that is not known."""
    try:
        return health_pb2.HealthCheckRequest.FromString(data)
    except DecodeError:
        return _NO_SERVICE


class _Watch:
    """One call that watches a service."""

    def __init__(self, service: str, context: grpc.ServicerContext, send: Callable[[Any], None]) -> None:
        self.service = service
        self.context = context
        self.send = send
        self.lock = threading.Lock()
        self.told: int | None = None


class Readiness(health.HealthServicer):
    """Answers health checks out of a thread that keeps asking. Thread-safe.

    Args:
        names: The services that are ready or not.
        ready: Whether what they depend on answers; may raise a MeshError, and may hang.
        overdue_s: Seconds after which a check without an answer counts as a no.
    """

    def __init__(self, names: Sequence[str], ready: Callable[[], bool], *, overdue_s: float = OVERDUE_S) -> None:
        super().__init__()
        self._names = names
        self._ready = ready
        self._overdue_s = overdue_s
        self._state_lock = threading.Lock()
        self._asked_s: float | None = None  # when the check under way began; None if there is none
        self._was_ready: bool | None = None
        self._watches: set[_Watch] = set()  # changed by single steps of CPython only
        self._stopping = threading.Event()
        self._first = threading.Event()
        self._asker = threading.Thread(target=self._keep_asking, name="readiness", daemon=True)
        self._watcher = threading.Thread(target=self._keep_watching, name="readiness-overdue", daemon=True)
        self._set(ready=False)

    def start(self) -> None:
        """Keeps asking from now on; returns with the first answer, or when it is overdue."""
        self._asker.start()
        self._watcher.start()
        self._first.wait(self._overdue_s)

    def stop(self) -> None:
        """Answers NOT_SERVING from now on, and ends all watches, which would keep the server from stopping.

        A check that hangs is left behind: its thread does not keep the process.
        """
        self._stopping.set()
        self.enter_graceful_shutdown()
        for watch in list(self._watches):
            self._tell(watch)
            watch.context.cancel()
        if self._asker.is_alive():
            self._asker.join(STOP_S)

    def Watch(self, request: Any, context: grpc.ServicerContext, send_response_callback: Any = None) -> None:
        """Sends the status at once and after every change.

        Not the library's, which holds its lock while it sends: gRPC's one thread of events may wait for that lock, to
        tell of another watch that has ended, and then nothing is ever sent again, by anybody.
        """
        if len(self._watches) >= MAX_WATCHES:
            message = f"{MAX_WATCHES} watches are open, the most this server takes; call Check instead"
            context.abort_with_status(rpc_status.to_status(to_status(ResourceExhausted("TOO_MANY_WATCHES", message))))
        watch = _Watch(request.service, context, send_response_callback)
        self._watches.add(watch)
        if context.add_callback(lambda: self._watches.discard(watch)):
            self._tell(watch)
        else:
            self._watches.discard(watch)

    def _tell(self, watch: "_Watch") -> None:
        """Sends a watch the status as it stands, if it has not been told already."""
        response = health_pb2.HealthCheckResponse
        with watch.lock:
            with self._lock:
                status = self._server_status.get(watch.service, response.SERVICE_UNKNOWN)
            if status != watch.told:
                watch.told = status
                watch.send(response(status=status))

    def _keep_asking(self) -> None:
        while True:
            self._ask()
            self._first.set()
            if self._stopping.wait(INTERVAL_S):
                return

    def _keep_watching(self) -> None:
        while not self._stopping.wait(min(INTERVAL_S, self._overdue_s)):
            with self._state_lock:
                if self._asked_s is not None and time.monotonic() - self._asked_s > self._overdue_s:
                    self._show(False, "CHECK_OVERDUE", f"its own check has not answered for {self._overdue_s:g} s")

    def _ask(self) -> None:
        with self._state_lock:
            self._asked_s = time.monotonic()
        reason, message = "NOT_READY", "its own check says so"
        try:
            ready = self._ready()
        except MeshError as error:
            ready, reason, message = False, error.reason, error.message
        except Exception:  # a check with a bug must not leave its last answer standing for ever
            _logger.exception("bug in the readiness check")
            ready = False
        with self._state_lock:
            self._asked_s = None
            self._show(ready, reason, message)

    def _show(self, ready: bool, reason: str, message: str) -> None:
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
            self._tell(watch)
