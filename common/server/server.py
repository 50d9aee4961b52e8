"""Making, running and draining a server; health and reflection come with every one."""

import errno
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from common.auth import Identity
from common.auth.access import role_of_methods
from common.auth.authenticator import Authenticator, Loopback, MutualTls
from common.auth.limits import CallerLimits
from common.auth.tokens import TokenVerifier
from common.config import ServiceSettings, load_settings
from common.contracts import pool_of
from common.database import Database
from common.errors import FailedPrecondition, MeshError
from common.keepalive import KEEPALIVE, MIN_PING_INTERVAL_MS
from common.processes import die_with
from common.server.arrivals import Arrivals
from common.server.interceptor import Interceptor
from common.server.readiness import Readiness
from common.telemetry import configure_logging
from common.telemetry.anchors import DatabaseAnchor
from common.telemetry.calls import CallObserver
from common.telemetry.process import Telemetry
from common.telemetry.servicer import SERVICE as AUDIT_SERVICE
from common.telemetry.servicer import AuditServicer
from common.telemetry.traces import Tracer
from protos.audit.v1 import audit_pb2_grpc

S = TypeVar("S", bound=ServiceSettings)
_MAX_WAITING = 1000
"""Calls that may wait for a thread; more are refused with RESOURCE_EXHAUSTED."""

_QUIET_S = 0.3
"""How long a server that stops refuses calls before it stops listening: gRPC then cuts those that it has not looked at,
and their callers are told that they were cancelled."""

_SIGNAL_POLL_S = 0.2
_THREAD_PREFIX = "rpc"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hosted:
    """One gRPC service of a server.

    Attributes:
        name: Its full name, e.g. `deepseek.registry.v1.RegistryService`; its .proto declares the role of each method.
        add: The generated function that adds a servicer to a server.
        servicer: The servicer.
    """

    name: str
    add: Callable[[Any, grpc.Server], None]
    servicer: object


class MeshServer:
    """A bound server. Made by `make_server`; a context manager that starts and stops it.

    Attributes:
        port: The port that was bound.
        address: `host:port`.
        names: Full names of the gRPC services it offers.
        metrics_address: `host:port` of the process's metrics; empty if there are none.
    """

    metrics_address = ""

    def __init__(
        self,
        server: grpc.Server,
        host: str,
        port: int,
        hosted: Sequence[Hosted],
        ready: Callable[[], bool],
        on_stop: Sequence[Callable[[], None]],
        pool: futures.ThreadPoolExecutor,
        interceptor: Interceptor,
        arrivals: Arrivals,
        lame_duck_s: float,
    ) -> None:
        self.port = port
        self.address = f"{host}:{port}"
        self.names = [one.name for one in hosted]
        self._server = server
        self._pool = pool
        self._on_stop = on_stop
        self._interceptor = interceptor
        self._arrivals = arrivals
        self._lame_duck_s = lame_duck_s
        self._readiness = Readiness(self.names, ready)
        health_pb2_grpc.add_HealthServicer_to_server(self._readiness, server)
        shown = [*self.names, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(shown, server, pool_of(shown))

    def start(self) -> None:
        """Starts answering. Health: `""` is alive from now on, each service's name serves while the server is ready."""
        self._server.start()
        self._arrivals.start()
        self._readiness.start()

    def stop(self, grace_s: float | None = None) -> None:
        """Refuses new calls, gives accepted ones `grace_s` seconds to finish, and stops; with None all of it at once.

        With time to finish it first says for `lame_duck_s` that it is not ready, and answers on.
        """
        self._readiness.stop()
        if grace_s is not None:
            time.sleep(self._lame_duck_s)
            self._interceptor.drain()
            time.sleep(_QUIET_S)
        self._arrivals.stop()
        for end in self._on_stop:
            end()
        self._server.stop(grace_s).wait()
        self._pool.shutdown(wait=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def make_server(
    settings: ServiceSettings,
    hosted: Sequence[Hosted],
    *,
    ready: Callable[[], bool],
    on_stop: Sequence[Callable[[], None]] = (),
    telemetry: Telemetry | None = None,
) -> MeshServer:
    """Binds a server; it does not answer until it is started.

    Args:
        settings: Address, limits and pool sizes.
        hosted: The gRPC services it offers, besides health and reflection.
        ready: Whether what the services depend on answers; may raise a MeshError. Called twice a second.
        on_stop: Called when the server begins to drain; each ends streams that would otherwise wait for news.
        telemetry: Of the process; the server hosts AuditService for its log. None observes nothing.

    Raises:
        FailedPrecondition: PORT_TAKEN, or BIND_FAILED for another reason; BAD_IDENTITY, BAD_JWKS_FILE.
        ValueError: A method of a hosted service declares no role.
    """
    observer = CallObserver(Tracer(settings.service))
    if telemetry:
        observer = telemetry.observer
        add_audit = audit_pb2_grpc.add_AuditServiceServicer_to_server
        hosted = [*hosted, Hosted(AUDIT_SERVICE, add_audit, AuditServicer(telemetry.audit))]
    num_threads = settings.unary_workers + settings.max_streams
    limits = CallerLimits(
        rate=settings.rate,
        burst=settings.burst,
        max_streams=settings.max_streams_per_caller,
        max_streams_per_tenant=settings.max_streams_per_tenant,
    )
    arrivals = Arrivals(limits, deadline_s=settings.deadline_s)
    interceptor = Interceptor(
        _authenticator(settings),
        role_of_methods(one.name for one in hosted),
        limits,
        arrivals,
        observer,
        max_streams=settings.max_streams,
        deadline_s=settings.deadline_s,
        max_message_bytes=settings.max_message_bytes,
    )
    # Streams hold a thread each; with the cap on them there are always `unary_workers` threads for unary calls.
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
    # gRPC would take as success that one of localhost's two addresses is free.
    host = {"localhost": "127.0.0.1"}.get(settings.host, settings.host)
    shown = f"[{host}]" if ":" in host else host
    credentials = Identity(settings.identity).server_credentials() if settings.identity else None
    address = f"{shown}:{settings.port}"
    try:
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise _bind_error(host, settings.port) from error
    bound = MeshServer(server, shown, port, hosted, ready, on_stop, pool, interceptor, arrivals, settings.lame_duck_s)
    bound.metrics_address = telemetry.metrics_address if telemetry else ""
    return bound


def _authenticator(settings: ServiceSettings) -> Authenticator:
    if not settings.identity:
        return Loopback()
    tokens = TokenVerifier(Identity(settings.identity).jwks_file, leeway_s=settings.token_leeway_s)
    return MutualTls(tokens, settings.callers)


def _bind_error(host: str, port: int) -> FailedPrecondition:
    """Why gRPC, which does not say it, could not bind a port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                message = f"cannot listen on port {port} of {host}: {error.strerror}"
                return FailedPrecondition("BIND_FAILED", message, field="port")
    # A port that was just given free counts as taken too.
    message = f"port {port} of {host} is taken; stop what listens there, or choose another port (0 takes a free one)"
    return FailedPrecondition("PORT_TAKEN", message, field="port")


def serve(settings: ServiceSettings, server: MeshServer, *, close: Callable[[], None]) -> int:
    """Runs a server until SIGTERM or SIGINT, then drains it.

    Args:
        settings: The drain time, and where to write the bound address.
        server: A bound server.
        close: Releases what the server used; called once it has stopped.

    Returns:
        The exit status, 0.
    """
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    server.start()
    _logger.info("%s listens on %s", settings.service, server.address, extra={"address": server.address})
    file = settings.address_file
    if file:
        temporary = file.with_name(f"{file.name}.{os.getpid()}")
        bound = {
            "service": settings.service,
            "address": server.address,
            "names": server.names,
            "identity": str(settings.identity or ""),
            "pid": os.getpid(),
            "metrics": server.metrics_address,
        }
        temporary.write_text(json.dumps(bound))
        temporary.replace(file)
    try:
        # Not one endless wait: a signal that another thread receives, or that comes as the wait begins, wakes nobody.
        while not asked.wait(_SIGNAL_POLL_S):
            pass
    finally:
        if file:
            file.unlink(missing_ok=True)
        server.stop(settings.drain_s)
        close()
    _logger.info("%s has stopped", settings.service)
    return 0


def run(cls: type[S], build: Callable[[S, ExitStack], MeshServer], argv: Sequence[str] | None = None) -> int:
    """The whole life of a service's process: settings, build, serve, close.

    Args:
        cls: The service's settings.
        build: Binds the server, and registers on the stack what has to be closed after it.
        argv: Flags; None means those of this process.

    Returns:
        The exit status: 0 after a drain, 1 if the service could not start (the last log line tells why).
    """
    configure_logging(cls.service, "INFO")
    try:
        settings = load_settings(cls, argv)
        if settings.parent_pid:
            die_with(settings.parent_pid)
        configure_logging(cls.service, settings.log_level)
        if settings.audit_head:
            return _print_audit_head(settings)
        with ExitStack() as owned:
            status = serve(settings, build(settings, owned), close=owned.close)
    except MeshError as error:
        _logger.error("%s", error.message, extra={"code": error.code, "reason": error.reason, "field": error.field})
        return 1
    _leave_stuck_calls_behind(status)
    return status


def _print_audit_head(settings: ServiceSettings) -> int:
    """For who checks the log while no service runs: nobody but a service opens its database."""
    with closing(Database(settings.state_url, schema=settings.service)) as database:
        head = DatabaseAnchor(database, settings.audit_file).read()
    print(json.dumps(asdict(head) if head else None))
    return 0


def _leave_stuck_calls_behind(status: int) -> None:
    """Ends the process if a call outlived its grace: the interpreter would wait for its thread."""
    for thread in threading.enumerate():
        if thread.name.startswith(_THREAD_PREFIX):
            thread.join(1)
            if thread.is_alive():
                _logger.warning("a call did not end in time; leaving it behind")
                logging.shutdown()
                os._exit(status)
