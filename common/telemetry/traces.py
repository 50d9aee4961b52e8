"""Traces: W3C trace context through every process, spans by the OpenTelemetry SDK where somebody wants them.

The context of a trace (`SpanContext`) always travels: in a context variable within a process, as `traceparent` in the
metadata of calls (`common.channel`), in the rows of jobs and in the job files of child processes. So a process that
exports nothing does not tear a trace apart. Whether a trace is recorded is decided once, where it begins: by its
caller, or here by chance. What is not recorded never reaches the SDK, whose spans cost more than all else that a server
does for a call; and the SDK is imported only by a process that has an exporter.
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
"""Part of the traces that begin at a server, and not at a caller that has decided, that is recorded."""

TRACEPARENT = "traceparent"
"""Name of the header, of the metadata entry and of the member of a job file."""

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_EXPORT_DELAY_MS = 1000
_EXPORT_TIMEOUT_S = 5

Attributes = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class SpanContext:
    """One span as others see it (W3C Trace Context, https://www.w3.org/TR/trace-context/).

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
        """The header that tells another process of this span."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    @classmethod
    def parse(cls, traceparent: str) -> "SpanContext | None":
        """Reads a header; None if it is not one, as the standard has it: such a trace begins anew."""
        match = _HEADER.fullmatch(traceparent)
        if not match:
            return None
        version, trace_id, span_id, flags, rest = match.groups()
        if version == "ff" or (version == "00" and rest) or not int(trace_id, 16) or not int(span_id, 16):
            return None
        return cls(trace_id, span_id, bool(int(flags, 16) & 1))


def current() -> SpanContext | None:
    """The span that this thread works for."""
    span = _current.get()
    return span.context if span else None


def traceparent() -> str:
    """The header of the span that this thread works for; empty if there is none."""
    span = _current.get()
    return span.context.traceparent if span else ""


@dataclass(frozen=True)
class TraceTarget:
    """Where spans go; nowhere by default.

    Attributes:
        file: File that grows by lines of OTLP/JSON.
        endpoint: `http://host:port` or `https://host:port` of a collector that takes OTLP over gRPC.
    """

    file: Path | None = None
    endpoint: str = ""

    def to_json(self) -> dict[str, str]:
        """Members of a job file."""
        return {"trace_file": str(self.file or ""), "otlp_endpoint": self.endpoint}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "TraceTarget":
        """Reads the members of a job file; those that lack them want nothing."""
        file = document.get("trace_file")
        return cls(Path(file) if file else None, document.get("otlp_endpoint", ""))


class Span:
    """A piece of work, from its start until `end`. Made by a `Tracer`.

    Most are neither recorded nor told to anybody, and get their ids only when somebody asks.
    """

    __slots__ = ("_context", "_recorded", "_sampled")

    def __init__(self, context: SpanContext | None, recorded: Any = None, *, sampled: bool = False) -> None:
        self._context = context
        self._recorded = recorded
        self._sampled = sampled

    @property
    def context(self) -> SpanContext:
        """What others see of it."""
        if self._context is None:
            ids = f"{random.getrandbits(192) | 1 << 191 | 1:048x}"
            self._context = SpanContext(ids[:32], ids[32:], self._sampled)
        return self._context

    @property
    def recorded(self) -> bool:
        """Whether anybody will see it."""
        return self._recorded is not None

    def describe(self, attributes: Attributes) -> None:
        """Adds what has become known of the work; no secrets and no contents."""
        if self._recorded is not None:
            self._recorded.set_attributes(attributes)

    def fail(self, reason: str) -> None:
        """Says that the work failed, and why."""
        if self._recorded is not None:
            from opentelemetry.trace import Status, StatusCode

            self._recorded.set_status(Status(StatusCode.ERROR, reason))

    def end(self) -> None:
        """Ends it."""
        if self._recorded is not None:
            self._recorded.end()


_current: ContextVar[Span | None] = ContextVar("span", default=None)


def enter(span: Span | None) -> None:
    """Makes this thread work for a span from now on; None for no span."""
    _current.set(span)


class Tracer:
    """Makes the spans of one process. Thread-safe; `close` exports what is left.

    Args:
        service: Name of the service.
        target: Where spans go.
        sampling: Part of the traces that begin here that is recorded, 0 to 1.

    Raises:
        FailedPrecondition: OTLP_NOT_INSTALLED if spans shall go to a collector and the exporter is missing.
    """

    def __init__(
        self, service: str, target: TraceTarget = TraceTarget(), *, sampling: float = DEFAULT_SAMPLING
    ) -> None:
        self._sampling = sampling
        self._provider = _open_provider(service, target) if target.file or target.endpoint else None
        self._recorder = self._provider.get_tracer("deepseek.mesh") if self._provider else None

    @property
    def exports(self) -> bool:
        """Whether spans go anywhere."""
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
        """Starts a span; whoever calls this ends it.

        Args:
            name: What is done: a method, a kind of job; never something of which there are many.
            parent: The span that this is a part of; None begins a trace.
            server: Whether it answers a call of another process.
            sampled: Whether a trace that begins here is recorded; None leaves it to chance.
            attributes: What is known of it; no secrets and no contents.
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
        """Works for a new span within the block; an error that leaves it is the span's.

        Args:
            name: As in `start`.
            parent: As in `start`; None takes the current span if there is one.
            sampled: As in `start`.
            attributes: As in `start`.
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
        """Exports what is left, and ends. Idempotent."""
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
            message = "spans go to a collector with opentelemetry-exporter-otlp-proto-grpc, which is not installed here"
            raise FailedPrecondition("OTLP_NOT_INSTALLED", message, field="otlp_endpoint") from error
        insecure = target.endpoint.startswith("http://")
        exporters.append(OTLPSpanExporter(target.endpoint, insecure=insecure, timeout=_EXPORT_TIMEOUT_S))
    provider = TracerProvider(
        sampler=ALWAYS_ON, resource=Resource({"service.name": f"deepseek-{service}"}), shutdown_on_exit=False
    )
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_EXPORT_DELAY_MS))
    return provider
