"""Creates, runs and drains servers. Every server hosts health checks and reflection."""

import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from common.auth.access import role_of_methods, unaudited_methods
from common.auth.authenticator import Authenticator, Loopback, MutualTls
from common.auth.identity import Identity
from common.auth.limits import CallerLimits
from common.config import ServiceSettings
from common.contracts import pool_of
from common.errors import FailedPrecondition
from common.files import replace_file
from common.keepalive import KEEPALIVE, MIN_PING_INTERVAL_MS
from common.server.interceptor import Interceptor
from common.server.readiness import Readiness
from common.server.slow_requests import SlowRequestGuard
from common.server.stop_signals import StopSignals
from common.server.telemetry import Telemetry
from common.service import AUDIT_CONTRACT
from common.telemetry.calls import CallObserver
from common.telemetry.servicer import AuditServicer
from common.telemetry.traces import Tracer
from protos.audit.v1 import audit_pb2_grpc

_MAX_WAITING = 1000
"""Maximum number of calls that wait for a thread. Further calls are rejected with RESOURCE_EXHAUSTED."""

_QUIET_POLL_S = 0.1
_NUM_QUIET_POLLS = 3
_MAX_QUIET_POLLS = 30
"""A stopping server rejects calls until none has arrived during three polls in a row, or for 3 s. Then it stops
listening. Calls that gRPC has not accepted by then fail with CANCELLED."""

_THREAD_PREFIX = "rpc"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GrpcService:
    """One gRPC service of a server.

    Attributes:
        name: Full name, e.g. `deepseek.registry.v1.RegistryService`. Its .proto declares the role of each method.
        add: Generated function that adds a servicer to a server.
        servicer: The servicer.
    """

    name: str
    add: Callable[[Any, grpc.Server], None]
    servicer: object


class MeshServer:
    """A bound server, created by `make_server`. As a context manager, it starts on entry and stops on exit.

    Attributes:
        port: The bound port.
        address: `host:port`.
        names: Full names of the gRPC services that the server hosts.
        metrics_address: `host:port` of the process's metrics; empty if the process serves none.
    """

    metrics_address = ""

    def __init__(
        self,
        server: grpc.Server,
        host: str,
        port: int,
        hosted: Sequence[GrpcService],
        ready: Callable[[], bool],
        on_drain: Sequence[Callable[[], None]],
        pool: futures.ThreadPoolExecutor,
        interceptor: Interceptor,
        slow_requests: SlowRequestGuard,
        lame_duck_s: float,
    ) -> None:
        self.port = port
        self.address = f"{host}:{port}"
        self.names = [one.name for one in hosted]
        self._server = server
        self._pool = pool
        self._on_drain = on_drain
        self._interceptor = interceptor
        self._slow_requests = slow_requests
        self._lame_duck_s = lame_duck_s
        self._readiness = Readiness(self.names, ready)
        health_pb2_grpc.add_HealthServicer_to_server(self._readiness, server)
        shown = [*self.names, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(shown, server, pool_of(shown))

    def start(self) -> None:
        """Starts serving. Health checks then report SERVING for `""`, and for the services once they are ready."""
        self._server.start()
        self._slow_requests.start()
        self._readiness.start()

    def stop(self, grace_s: float | None = None) -> None:
        """Rejects new calls, gives accepted calls `grace_s` seconds to finish (None means no time), and stops.

        With a grace period, the server first reports that it is not ready, but still accepts calls for `lame_duck_s`
        seconds.
        """
        self._readiness.stop()
        if grace_s is not None:
            time.sleep(self._lame_duck_s)
            self._interceptor.drain()
            self._wait_for_quiet()
        self._slow_requests.stop()
        for end in self._on_drain:
            end()
        self._server.stop(grace_s).wait()
        self._pool.shutdown(wait=False)

    def _wait_for_quiet(self) -> None:
        num_quiet, num_rejected = 0, self._interceptor.num_rejected
        for _ in range(_MAX_QUIET_POLLS):
            time.sleep(_QUIET_POLL_S)
            before, num_rejected = num_rejected, self._interceptor.num_rejected
            num_quiet = num_quiet + 1 if num_rejected == before else 0
            if num_quiet == _NUM_QUIET_POLLS:
                return

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def make_server(
    settings: ServiceSettings,
    hosted: Sequence[GrpcService],
    *,
    ready: Callable[[], bool],
    on_drain: Sequence[Callable[[], None]] = (),
    telemetry: Telemetry | None = None,
) -> MeshServer:
    """Binds a server, which handles no calls until it is started.

    Args:
        settings: Address, limits and pool sizes.
        hosted: The gRPC services to host, in addition to health and reflection.
        ready: Readiness check, called twice per second. It returns whether the dependencies of the services respond,
            and may raise a MeshError.
        on_drain: Functions called when the server begins to drain. Each ends streams that would otherwise stay open.
        telemetry: Telemetry of the process, which observes all calls. The server hosts AuditService for its audit log.
            If None, calls are not observed, and AuditService is not hosted.

    Raises:
        FailedPrecondition: PORT_TAKEN, or BIND_FAILED if the port cannot be bound for another reason; BAD_IDENTITY,
            CERTIFICATE_EXPIRED or BAD_JWKS_FILE.
        ValueError: A method of a hosted service declares no role.
    """
    observer = CallObserver(Tracer(settings.service.name))
    if telemetry:
        observer = telemetry.observer
        add_audit = audit_pb2_grpc.add_AuditServiceServicer_to_server
        hosted = [*hosted, GrpcService(AUDIT_CONTRACT, add_audit, AuditServicer(telemetry.audit))]
    num_threads = settings.unary_workers + settings.max_streams
    limits = CallerLimits(
        rate=settings.rate,
        burst=settings.burst,
        max_streams=settings.max_streams_per_caller,
        max_streams_per_tenant=settings.max_streams_per_tenant,
    )
    slow_requests = SlowRequestGuard(limits, deadline_s=settings.deadline_s)
    interceptor = Interceptor(
        _authenticator(settings),
        role_of_methods(one.name for one in hosted),
        limits,
        slow_requests,
        observer,
        unaudited=unaudited_methods(one.name for one in hosted),
        max_streams=settings.max_streams,
        deadline_s=settings.deadline_s,
        max_message_bytes=settings.max_message_bytes,
    )
    # Each stream occupies a thread. At most `max_streams` are open, so `unary_workers` threads remain for unary calls.
    pool = futures.ThreadPoolExecutor(num_threads, thread_name_prefix=_THREAD_PREFIX)
    server = grpc.server(
        pool,
        interceptors=[interceptor],
        maximum_concurrent_rpcs=num_threads + _MAX_WAITING,
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
            ("grpc.keepalive_permit_without_calls", 1),
            *KEEPALIVE,
        ],
    )
    for one in hosted:
        one.add(one.servicer, server)
    # gRPC would report success even if only one of localhost's two addresses could be bound.
    host = {"localhost": "127.0.0.1"}.get(settings.host, settings.host)
    shown = f"[{host}]" if ":" in host else host
    credentials = Identity(settings.identity).server_credentials() if settings.identity else None
    address = f"{shown}:{settings.port}"
    try:
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise _bind_error(host, settings.port) from error
    bound = MeshServer(
        server, shown, port, hosted, ready, on_drain, pool, interceptor, slow_requests, settings.lame_duck_s
    )
    bound.metrics_address = telemetry.metrics_address if telemetry else ""
    return bound


def _authenticator(settings: ServiceSettings) -> Authenticator:
    if not settings.identity:
        return Loopback()

    from common.auth.tokens import TokenVerifier  # imports PyJWT and cryptography, which loopback does not need

    tokens = TokenVerifier(Identity(settings.identity).jwks_file, leeway_s=settings.token_leeway_s)
    return MutualTls(tokens, settings.service.grants)


def _bind_error(host: str, port: int) -> FailedPrecondition:
    """Returns the error for a port that gRPC could not bind. gRPC itself does not report the cause."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                message = f"cannot listen on port {port} of {host}: {error.strerror}"
                return FailedPrecondition("BIND_FAILED", message, field="port")
    # A port that has just been released also counts as taken.
    message = (
        f"port {port} of {host} is taken; stop the process that uses it, or choose another port (0 for a free one)"
    )
    return FailedPrecondition("PORT_TAKEN", message, field="port")


def serve(settings: ServiceSettings, server: MeshServer, *, close: Callable[[], None]) -> int:
    """Runs a server until SIGTERM or SIGINT, then drains it.

    Args:
        settings: Settings with the drain time and the file for the bound address.
        server: A bound server.
        close: Function that releases the resources of the server; called once the server has stopped.

    Returns:
        The exit status, 0.
    """
    signals = StopSignals()
    server.start()
    _logger.info("%s listens on %s", settings.service.name, server.address, extra={"address": server.address})
    file = settings.address_file
    if file:
        bound = {
            "service": settings.service.name,
            "address": server.address,
            "names": server.names,
            "identity": str(settings.identity or ""),
            "pid": os.getpid(),
            "metrics": server.metrics_address,
        }
        replace_file(file, json.dumps(bound).encode(), mode=0o644, durable=False)
    try:
        signals.wait()
    finally:
        if file:
            file.unlink(missing_ok=True)
        server.stop(settings.drain_s)
        close()
    _logger.info("%s has stopped", settings.service.name)
    _leave_stuck_calls_behind()
    return 0


def _leave_stuck_calls_behind() -> None:
    """Exits at once if a call outlived the grace period, because a normal exit would wait for the call's thread."""
    for thread in threading.enumerate():
        if thread.name.startswith(_THREAD_PREFIX):
            thread.join(1)
            if thread.is_alive():
                _logger.warning("a call did not end in time; the process exits without waiting for it")
                logging.shutdown()
                os._exit(0)
