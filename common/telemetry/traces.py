"""Traces: W3C trace context in every process, and spans of the OpenTelemetry SDK where spans are exported.

The trace context (`SpanContext`) is always propagated: in a context variable within a process, and as `traceparent` in
the metadata of calls (`common.channel`), in the rows of jobs and in the job files of child processes. A process without
an exporter therefore does not break a trace. The sampling decision is made once, where a trace starts, either by the
caller or at random here. Unsampled spans never reach the SDK, whose spans cost more than the rest of a call. Only
processes with an exporter import the SDK.
"""

import contextlib
import random
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import FailedPrecondition, MeshError

DEFAULT_SAMPLING = 0.01
"""Default fraction of traces that are sampled. It applies only if the caller has not made the decision."""

TRACEPARENT = "traceparent"
"""Name of the trace context in HTTP headers, in gRPC metadata and in job files."""

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_EXPORT_DELAY_MS = 1000
_EXPORT_TIMEOUT_S = 5

Attributes = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class SpanContext:
    """The propagated part of a span (W3C Trace Context, https://www.w3.org/TR/trace-context/).

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        sampled: Whether the trace is recorded.
    """

    trace_id: str
    span_id: str
    sampled: bool

    @property
    def traceparent(self) -> str:
        """The `traceparent` header, which propagates this span to another process."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    @classmethod
    def parse(cls, traceparent: str) -> "SpanContext | None":
        """Parses a `traceparent` header. Returns None if it is not valid; the standard then requires a new trace."""
        match = _HEADER.fullmatch(traceparent)
        if not match:
            return None
        version, trace_id, span_id, flags, rest = match.groups()
        if version == "ff" or (version == "00" and rest) or not int(trace_id, 16) or not int(span_id, 16):
            return None
        return cls(trace_id, span_id, bool(int(flags, 16) & 1))


def current() -> SpanContext | None:
    """Returns the current span of this thread; None if there is none."""
    span = _current.get()
    return span.context if span else None


def traceparent() -> str:
    """Returns the `traceparent` header of this thread's current span; empty if there is none."""
    span = _current.get()
    return span.context.traceparent if span else ""


@dataclass(frozen=True)
class TraceTarget:
    """The destination of spans. By default, spans are not exported.

    Attributes:
        file: File to which lines of OTLP/JSON are appended.
        endpoint: `http://host:port` or `https://host:port` of a collector that accepts OTLP over gRPC.
    """

    file: Path | None = None
    endpoint: str = ""

    def to_json(self) -> dict[str, str]:
        """Returns the members of a job file that specify this destination."""
        return {"trace_file": str(self.file or ""), "otlp_endpoint": self.endpoint}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "TraceTarget":
        """Reads the destination from the members of a job file. If they are missing, spans are not exported."""
        file = document.get("trace_file")
        return cls(Path(file) if file else None, document.get("otlp_endpoint", ""))


class Span:
    """A span: one operation, from its start until `end`. Created by a `Tracer`.

    Most spans are neither recorded nor propagated, so ids are generated only when they are first read.
    """

    __slots__ = ("_context", "_recorded", "_sampled")

    def __init__(self, context: SpanContext | None, recorded: Any = None, *, sampled: bool = False) -> None:
        self._context = context
        self._recorded = recorded
        self._sampled = sampled

    @property
    def context(self) -> SpanContext:
        """The propagated part of the span."""
        if self._context is None:
            ids = f"{random.getrandbits(192) | 1 << 191 | 1:048x}"
            self._context = SpanContext(ids[:32], ids[32:], self._sampled)
        return self._context

    @property
    def recorded(self) -> bool:
        """Whether the span is exported."""
        return self._recorded is not None

    def describe(self, attributes: Attributes) -> None:
        """Adds attributes, which must not contain secrets or the contents of data."""
        if self._recorded is not None:
            self._recorded.set_attributes(attributes)

    def fail(self, reason: str) -> None:
        """Marks the operation as failed."""
        if self._recorded is not None:
            from opentelemetry.trace import Status, StatusCode

            self._recorded.set_status(Status(StatusCode.ERROR, reason))

    def end(self) -> None:
        """Ends the span."""
        if self._recorded is not None:
            self._recorded.end()


_current: ContextVar[Span | None] = ContextVar("span", default=None)


def enter(span: Span | None) -> None:
    """Sets the current span of this thread; None means no span."""
    _current.set(span)


class Tracer:
    """Creates the spans of one process. Thread-safe; `close` exports pending spans.

    Args:
        service: Name of the service.
        target: Destination of spans.
        sampling: Fraction of the traces starting in this process that are sampled, from 0 to 1.

    Raises:
        FailedPrecondition: OTLP_NOT_INSTALLED if the destination is a collector and the exporter is not installed.
    """

    def __init__(
        self, service: str, target: TraceTarget = TraceTarget(), *, sampling: float = DEFAULT_SAMPLING
    ) -> None:
        self._sampling = sampling
        self._provider = _open_provider(service, target) if target.file or target.endpoint else None
        self._recorder = self._provider.get_tracer("deepseek.mesh") if self._provider else None

    @property
    def exports(self) -> bool:
        """Whether spans are exported."""
        return self._provider is not None

    def start(
        self,
        name: str,
        parent: SpanContext | None,
        *,
        server: bool = False,
        sampled: bool | None = None,
        attributes: Attributes | None = None,
    ) -> Span:
        """Starts a span, which the caller ends.

        Args:
            name: Name of the operation. Names should come from a small set, such as methods or kinds of job.
            parent: Parent span; None starts a new trace.
            server: Whether the span handles a call from another process.
            sampled: Whether a new trace is sampled; None means a random decision.
            attributes: Attributes of the span, without secrets or the contents of data.
        """
        if parent is None:
            sampled = random.random() < self._sampling if sampled is None else sampled
        else:
            sampled = parent.sampled
        if sampled and self._recorder is not None:
            return self._record(name, parent, server, attributes)
        return Span(parent, sampled=sampled)

    @contextlib.contextmanager
    def span(
        self,
        name: str,
        parent: SpanContext | None = None,
        *,
        sampled: bool | None = None,
        attributes: Attributes | None = None,
    ) -> Iterator[Span]:
        """Runs the `with` block in a new span, which is marked as failed if the block raises.

        Args:
            name: See `start`.
            parent: See `start`; None means the current span if there is one.
            sampled: See `start`.
            attributes: See `start`.
        """
        before = _current.get()
        span = self.start(name, parent or current(), sampled=sampled, attributes=attributes)
        enter(span)
        try:
            yield span
        except Exception as error:
            span.fail(error.reason if isinstance(error, MeshError) else type(error).__name__)
            raise
        finally:
            enter(before)
            span.end()

    def close(self) -> None:
        """Exports pending spans and stops. Idempotent."""
        if self._provider is not None:
            self._provider.shutdown()

    def _record(self, name: str, parent: SpanContext | None, server: bool, attributes: Attributes | None) -> Span:
        from opentelemetry import trace
        from opentelemetry.context import Context

        context = Context()
        if parent is not None:
            remote = trace.SpanContext(
                int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(1)
            )
            context = trace.set_span_in_context(trace.NonRecordingSpan(remote), context)
        kind = trace.SpanKind.SERVER if server else trace.SpanKind.INTERNAL
        assert self._recorder is not None
        recorded = self._recorder.start_span(name, context, kind=kind, attributes=attributes)
        own = recorded.get_span_context()
        return Span(SpanContext(f"{own.trace_id:032x}", f"{own.span_id:016x}", True), recorded)


def _open_provider(service: str, target: TraceTarget) -> Any:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    exporters: list[SpanExporter] = []
    if target.file:
        from common.telemetry.span_file import SpanFile

        exporters.append(SpanFile(target.file))
    if target.endpoint:
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        except ImportError as error:
            message = "exporting to a collector requires opentelemetry-exporter-otlp-proto-grpc; install this package"
            raise FailedPrecondition("OTLP_NOT_INSTALLED", message, field="otlp_endpoint") from error
        insecure = target.endpoint.startswith("http://")
        exporters.append(OTLPSpanExporter(target.endpoint, insecure=insecure, timeout=_EXPORT_TIMEOUT_S))
    provider = TracerProvider(
        sampler=ALWAYS_ON, resource=Resource({"service.name": f"deepseek-{service}"}), shutdown_on_exit=False
    )
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_EXPORT_DELAY_MS))
    return provider
