"""A server's metrics for Prometheus, served over HTTP.

Call metrics have the names that gRPC's Prometheus middleware uses, so its dashboards work. Labels are services,
methods, codes, kinds and states, which have few values. Tenants and subjects are never labels. The only user-chosen
labels are the ids of loaded models, whose number is limited by memory. Calls to unknown methods are not counted, since
a caller could invent any number of method names.
"""

import datetime
import itertools
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from common.errors import FailedPrecondition, MeshError

BUCKETS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Upper bounds of histogram buckets, in seconds. A local unary call takes about 0.4 ms, and an upload takes minutes."""


class Metrics:
    """The metrics of one server. Thread-safe; `close` stops the HTTP server that `serve` started."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._methods: list[MethodMetrics] = []
        self._registry.register(_Calls(self._methods))
        self._store_seconds = Histogram(
            "deepseek_store_operation_seconds",
            "Duration of artifact store operations.",
            ("operation", "outcome"),
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._server: Any = None
        self._thread: threading.Thread | None = None

    def of_method(self, method: str) -> "MethodMetrics":
        """Returns the metrics of one method.

        Args:
            method: Path of the method, `/<service>/<method>`.
        """
        metrics = MethodMetrics(method)
        self._methods.append(metrics)
        return metrics

    def count_store_operation(self, operation: str, outcome: str, seconds: float) -> None:
        """Counts an operation of the artifact store.

        Args:
            operation: Name of the operation, as in `common.artifacts.measured`.
            outcome: `OK`, or the code of the error.
            seconds: Duration of the operation.
        """
        self._store_seconds.labels(operation, outcome).observe(seconds)

    def watch_jobs(self, count: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        """Exposes the number of jobs by kind and state, counted on every scrape.

        Args:
            count: Function that returns the numbers; may raise a MeshError.
        """
        self._registry.register(_Jobs(count))

    def watch_served(self, count: Callable[[], Mapping[tuple[str, str, str, str], int]]) -> None:
        """Exposes which variants of model versions are served, counted on every scrape.

        Args:
            count: Function that returns the number of loaded models by model, version, variant and instruction set. A
                number exceeds 1 if several tenants use the same model name.
        """
        self._registry.register(_Served(count))

    def watch_certificate(self, expires: Callable[[], datetime.datetime | None]) -> None:
        """Exposes the expiry of the process's certificate, read on every scrape.

        Args:
            expires: Function that returns the expiry, or None if there is no certificate; may raise a MeshError.
        """
        self._registry.register(_Certificate(expires))

    def serve(self, host: str, port: int) -> int:
        """Serves the metrics at `http://host:port/metrics` until `close`.

        Args:
            host: Address to listen on.
            port: Port to listen on; 0 means any free port.

        Returns:
            The bound port.

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
        """Stops the HTTP server. Idempotent."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None


class MethodMetrics:
    """The metrics of one method. Thread-safe.

    Updating the Prometheus client's own metric types would take ten times as long as updating this class, because each
    call would update four of them.

    Args:
        method: Path of the method, `/<service>/<method>`.
    """

    def __init__(self, method: str) -> None:
        service, _, name = method.removeprefix("/").partition("/")
        self.labels = (service, name)
        self._lock = threading.Lock()
        self._in_flight = 0
        self._seconds = 0.0
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._codes: Counter[str] = Counter()

    def begin(self) -> float:
        """Counts a call as running. Returns the time to pass to `end`."""
        with self._lock:
            self._in_flight += 1
        return time.perf_counter()

    def end(self, began: float, code: str) -> None:
        """Counts a call as completed, with a status code such as `OK`."""
        seconds = time.perf_counter() - began
        bucket = bisect_left(BUCKETS_S, seconds)
        with self._lock:
            self._in_flight -= 1
            self._seconds += seconds
            self._buckets[bucket] += 1
            self._codes[code] += 1

    def add_to(
        self, handled: CounterMetricFamily, seconds: HistogramMetricFamily, in_flight: GaugeMetricFamily
    ) -> None:
        """Adds the current values to the metric families."""
        with self._lock:
            buckets, codes, total_s, under_way = list(self._buckets), dict(self._codes), self._seconds, self._in_flight
        for code, number in codes.items():
            handled.add_metric((*self.labels, code), number)
        bounds = [*map(str, BUCKETS_S), "+Inf"]
        seconds.add_metric(self.labels, list(zip(bounds, itertools.accumulate(buckets), strict=True)), total_s)
        in_flight.add_metric(self.labels, under_way)


class _Calls(Collector):
    def __init__(self, methods: list[MethodMetrics]) -> None:
        self._methods = methods

    def collect(self) -> Iterable[Metric]:
        names = ("grpc_service", "grpc_method")
        handled = CounterMetricFamily("grpc_server_handled", "Completed calls.", labels=(*names, "grpc_code"))
        seconds = HistogramMetricFamily("grpc_server_handling_seconds", "Duration of calls.", labels=names)
        in_flight = GaugeMetricFamily("grpc_server_in_flight", "Running calls.", labels=names)
        for method in list(self._methods):
            method.add_to(handled, seconds, in_flight)
        return [handled, seconds, in_flight]


class _Jobs(Collector):
    def __init__(self, count: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        self._count = count

    def collect(self) -> Iterable[Metric]:
        jobs = GaugeMetricFamily("deepseek_jobs", "Jobs in the service's database.", labels=("kind", "state"))
        try:
            for (kind, state), number in self._count().items():
                jobs.add_metric((kind, state), number)
        except MeshError:
            return []  # no value is better than a wrong one; the other metrics remain available
        return [jobs]

    def describe(self) -> Iterable[Metric]:
        """Returns nothing, so that registering does not query the database."""
        return []


class _Served(Collector):
    def __init__(self, count: Callable[[], Mapping[tuple[str, str, str, str], int]]) -> None:
        self._count = count

    def collect(self) -> Iterable[Metric]:
        served = GaugeMetricFamily(
            "deepseek_served_model",
            "Variants of model versions that are served on this host.",
            labels=("model", "version", "variant", "instruction_set"),
        )
        for labels, number in self._count().items():
            served.add_metric(labels, number)
        return [served]


class _Certificate(Collector):
    def __init__(self, expires: Callable[[], datetime.datetime | None]) -> None:
        self._expires = expires

    def collect(self) -> Iterable[Metric]:
        expiry = GaugeMetricFamily(
            "deepseek_certificate_expiry_timestamp_seconds",
            "Expiry of the service's certificate, seconds since 1970.",
        )
        try:
            if expires := self._expires():
                expiry.add_metric((), expires.timestamp())
        except MeshError:
            return []  # as in `_Jobs`
        return [expiry]

    def describe(self) -> Iterable[Metric]:
        """Returns nothing, so that registering does not read the certificate."""
        return []
