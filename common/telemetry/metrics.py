"""Metrics of a server for Prometheus, over HTTP.

Calls are counted under the names that gRPC's own Prometheus middleware uses, so dashboards made for it work. Labels are
services, methods, codes, kinds and states, which have few values. There are no tenants or subjects, and the only names
chosen by users are the ids of loaded models, which memory limits. Calls of methods that do not exist are not counted,
since a caller could invent any number of them.
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
"""Upper bounds of the histograms: a unary call on one machine takes about 0.4 ms, an upload minutes."""


class Metrics:
    """The metrics of one server. Thread-safe; `close` ends what `serve` started."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._methods: list[MethodMetrics] = []
        self._registry.register(_Calls(self._methods))
        self._store_seconds = Histogram(
            "deepseek_store_operation_seconds",
            "How long operations of the artifact store took.",
            ("operation", "outcome"),
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._server: Any = None
        self._thread: threading.Thread | None = None

    def of_method(self, method: str) -> "MethodMetrics":
        """The metrics of one method.

        Args:
            method: Its path, `/<service>/<method>`.
        """
        metrics = MethodMetrics(method)
        self._methods.append(metrics)
        return metrics

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

    def watch_served(self, count: Callable[[], Mapping[tuple[str, str, str, str], int]]) -> None:
        """Exposes which form of which model version is served; counted on every scrape.

        Args:
            count: Counts the loaded models by model, version, variant and instruction set; more than 1 if tenants use
                the same name.
        """
        self._registry.register(_Served(count))

    def watch_certificate(self, expires: Callable[[], datetime.datetime | None]) -> None:
        """Shows when the process's certificate expires, read whenever somebody looks.

        Args:
            expires: Reads it; None if there is none. May raise a MeshError.
        """
        self._registry.register(_Certificate(expires))

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
    """What is counted of one method. Thread-safe.

    Counted here and not in the client's own types, of which a call would need four: they cost ten times as much.

    Args:
        method: Its path, `/<service>/<method>`.
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
        """Counts a call as under way; returns what `end` has to be given."""
        with self._lock:
            self._in_flight += 1
        return time.perf_counter()

    def end(self, began: float, code: str) -> None:
        """Counts the call as ended with a status code, e.g. `OK`."""
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
        """Adds the figures as they stand."""
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
        handled = CounterMetricFamily("grpc_server_handled", "Calls that have ended.", labels=(*names, "grpc_code"))
        seconds = HistogramMetricFamily("grpc_server_handling_seconds", "How long calls took.", labels=names)
        in_flight = GaugeMetricFamily("grpc_server_in_flight", "Calls under way.", labels=names)
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
            return []  # no figure is better than a wrong one, and the other metrics are wanted now more than ever
        return [jobs]

    def describe(self) -> Iterable[Metric]:
        """None: registering must not count."""
        return []


class _Served(Collector):
    def __init__(self, count: Callable[[], Mapping[tuple[str, str, str, str], int]]) -> None:
        self._count = count

    def collect(self) -> Iterable[Metric]:
        served = GaugeMetricFamily(
            "deepseek_served_model",
            "Which form of which model version is served on this host.",
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
            "When the service's certificate expires, seconds since 1970.",
        )
        try:
            if expires := self._expires():
                expiry.add_metric((), expires.timestamp())
        except MeshError:
            return []  # as above
        return [expiry]

    def describe(self) -> Iterable[Metric]:
        """None: registering must not read."""
        return []
