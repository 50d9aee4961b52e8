"""Health by the gRPC health protocol: alive, and ready.

`""` is alive as long as the server runs, a service's name is ready as long as what it depends on answers. Restarts
follow the first, traffic the second.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from common.errors import MeshError

INTERVAL_S = 0.5
"""How often a server asks itself whether it is ready."""

_logger = logging.getLogger(__name__)


class Readiness(health.HealthServicer):
    """Answers health checks out of a thread that keeps asking. Thread-safe.

    Args:
        names: The services that are ready or not.
        ready: Whether what they depend on answers; may raise a MeshError.
    """

    def __init__(self, names: Sequence[str], ready: Callable[[], bool]) -> None:
        super().__init__()
        self._names = names
        self._ready = ready
        self._was_ready: bool | None = None
        self._watches: set[Any] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_asking, name="readiness", daemon=True)
        self._set(ready=False)

    def start(self) -> None:
        """Asks once, then keeps asking."""
        self._ask()
        self._thread.start()

    def stop(self) -> None:
        """Answers NOT_SERVING from now on, and ends all watches, which would keep the server from stopping."""
        self._stopping.set()
        self.enter_graceful_shutdown()
        for context in list(self._watches):
            context.cancel()
        if self._thread.is_alive():
            self._thread.join()

    def Watch(self, request: Any, context: grpc.ServicerContext, send_response_callback: Any = None) -> Any:
        """Sends the status at once and after every change."""
        self._watches.add(context)
        if not context.add_callback(lambda: self._watches.discard(context)):
            self._watches.discard(context)
        return super().Watch(request, context, send_response_callback)

    def _keep_asking(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            self._ask()

    def _ask(self) -> None:
        reason, message = "NOT_READY", "its own check says so"
        try:
            ready = self._ready()
        except MeshError as error:
            ready, reason, message = False, error.reason, error.message
        except Exception:  # a check with a bug must not leave its last answer standing for ever
            _logger.exception("bug in the readiness check")
            ready = False
        if ready != self._was_ready:
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
