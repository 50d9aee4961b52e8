"""Metrics of a server for Prometheus, over HTTP.

Calls are counted under the names that gRPC's own Prometheus middleware uses, so dashboards made for it work. Labels are
services, methods, codes, kinds and states, of which there are few: no tenant, no subject, no name of anything that
users make. Calls of methods that do not exist are not counted, since a caller could make up any number of them.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from threading import Thread
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.errors import FailedPrecondition, MeshError

BUCKETS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Upper bounds of the histograms: a unary call on one machine takes about 0.4 ms, an upload minutes."""


class Metrics:
    """The metrics of one server. Thread-safe; `close` ends what `serve` started."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        names = ("grpc_service", "grpc_method")
        self._handled = Counter(
            "grpc_server_handled_total", "Calls that have ended.", (*names, "grpc_code"), registry=self._registry
        )
        self._seconds = Histogram(
            "grpc_server_handling_seconds", "How long calls took.", names, buckets=BUCKETS_S, registry=self._registry
        )
        self._in_flight = Gauge("grpc_server_in_flight", "Calls under way.", names, registry=self._registry)
        self._store_seconds = Histogram(
            "deepseek_store_operation_seconds",
            "How long operations of the artifact store took.",
            ("operation", "outcome"),
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._server: Any = None
        self._thread: Thread | None = None

    def of_method(self, method: str) -> "MethodMetrics":
        """The metrics of one method.

        Args:
            method: Its path, `/<service>/<method>`.
        """
        service, _, name = method.removeprefix("/").partition("/")
        labels = (service, name)
        return MethodMetrics(
            self._in_flight.labels(*labels),
            self._seconds.labels(*labels),
            lambda code: self._handled.labels(*labels, code),
        )

    def count_store_operation(self, operation: str, outcome: str, seconds: float) -> None:
        """Counts an operation of the artifact store.

        Args:
            operation: As `common.artifacts.measured` names them.
            outcome: `OK`, or the code of the error.
            seconds: How long it took.
        """
        self._store_seconds.labels(operation, outcome).observe(seconds)

    def watch_jobs(self, count: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        """Shows jobs by kind and state, counted whenever somebody looks.

        Args:
            count: Counts them; may raise a MeshError.
        """
        self._registry.register(_Jobs(count))

    def serve(self, host: str, port: int) -> int:
        """Serves the metrics at `http://host:port/metrics` until `close`.

        Args:
            host: Address to listen on.
            port: 0 takes a free one.

        Returns:
            The port.

        Raises:
            FailedPrecondition: METRICS_PORT_TAKEN.
        """
        try:
            self._server, self._thread = start_http_server(port, host, self._registry)
        except OSError as error:
            message = f"cannot serve metrics on port {port} of {host}: {error.strerror}"
            raise FailedPrecondition("METRICS_PORT_TAKEN", message, field="metrics_port") from error
        bound: int = self._server.server_port
        return bound

    def close(self) -> None:
        """Ends serving. Idempotent."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None


class MethodMetrics:
    """What is counted of one method. Finds its label values once, which costs as much as counting."""

    def __init__(self, in_flight: Gauge, seconds: Histogram, handled: Callable[[str], Counter]) -> None:
        self._in_flight = in_flight
        self._seconds = seconds
        self._handled = handled
        self._by_code: dict[str, Counter] = {}

    def begin(self) -> float:
        """Counts a call as under way; returns what `end` has to be given."""
        self._in_flight.inc()
        return time.perf_counter()

    def end(self, began: float, code: str) -> None:
        """Counts the call as ended with a status code, e.g. `OK`."""
        self._in_flight.dec()
        self._seconds.observe(time.perf_counter() - began)
        counter = self._by_code.get(code)
        if counter is None:
            counter = self._by_code[code] = self._handled(code)
        counter.inc()


class _Jobs(Collector):
    def __init__(self, count: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        self._count = count

    def collect(self) -> Iterable[Metric]:
        jobs = GaugeMetricFamily("deepseek_jobs", "Jobs in the service's database.", labels=("kind", "state"))
        try:
            for (kind, state), number in self._count().items():
                jobs.add_metric((kind, state), number)
        except MeshError:
            return []  # no figure is better than a wrong one, and the other metrics are wanted now more than ever
        return [jobs]

    def describe(self) -> Iterable[Metric]:
        """None: registering must not count."""
        return []
