"""What is seen of every call of a server: its span, its metrics, and its record in the audit log.

The interceptor opens an observation when a call comes in and ends it before the answer goes out, so a call that changed
something is on record before its caller knows. Audited are calls that take a writer or more, however they end, and all
calls that were refused because of who made them; reads are not.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

import grpc

from common.auth import Caller
from common.errors import MeshError
from common.telemetry.audit import AuditLog
from common.telemetry.traces import TRACEPARENT, SpanContext, Tracer, enter

if TYPE_CHECKING:
    from common.telemetry.metrics import Metrics

REFUSED = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})
"""The codes of calls that are audited whatever they asked for."""

UNRECORDED = frozenset({"RATE_EXCEEDED"})
"""The reasons of refusals that are not: whoever calls too often would have the disk do more for it."""

_STRANGERS_BURST = 100
_MAX_HOSTS = 1000

_LONGEST_NAME = 256
# Fields of requests that name what a call is for: those that name it fully, and those that a response knows better.
_FULL_NAMES = ("name", "upload", "model_name", "run")
_PARTS_OF_NAMES = ("parent", "dataset", "dataset_id", "model_id")

_log = logging.getLogger(__name__)


class Strangers:
    """Bounds what calls may write whose caller nobody knows: they cost the disk more than their maker. Thread-safe.

    A host's first calls are recorded, and of the others one a second, which tells how many were not.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._hosts: OrderedDict[str, tuple[float, float, int]] = OrderedDict()  # records left, since when, unrecorded

    def count(self, host: str) -> int | None:
        """Counts a call; None if it is not to be recorded, else how many before it were not."""
        now = self._clock()
        with self._lock:
            left, since, unrecorded = self._hosts.pop(host, (float(_STRANGERS_BURST), now, 0))
            left = min(_STRANGERS_BURST, left + now - since)
            recorded = left >= 1
            self._hosts[host] = (left - 1, now, 0) if recorded else (left, now, unrecorded + 1)
            if len(self._hosts) > _MAX_HOSTS:
                self._hosts.popitem(last=False)
        return unrecorded if recorded else None


class CallObserver:
    """Observes the calls of a server. Thread-safe; owns nothing that it is given.

    Args:
        tracer: Makes the spans.
        metrics: Counts the calls; None counts none.
        audit: Keeps the records; None keeps none.
    """

    def __init__(self, tracer: Tracer, *, metrics: "Metrics | None" = None, audit: AuditLog | None = None) -> None:
        self.tracer = tracer
        self.metrics = metrics
        self.audit = audit
        self.strangers = Strangers()

    def of_method(self, method: str, *, audited: bool) -> "MethodObserver":
        """What observes the calls of one method.

        Args:
            method: Its path, `/<service>/<method>`.
            audited: Whether all of its calls are audited, and not only the refused ones.
        """
        return MethodObserver(self, method, audited=audited)


class MethodObserver:
    """Made by `CallObserver.of_method`."""

    def __init__(self, observer: CallObserver, method: str, *, audited: bool) -> None:
        self.method = method
        self.audited = audited
        self.tracer = observer.tracer
        self.audit = observer.audit
        self.strangers = observer.strangers
        self.metrics = observer.metrics.of_method(method) if observer.metrics else None
        self.span_name = method.removeprefix("/")
        service, _, name = self.span_name.partition("/")
        self.attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}

    def begin(self, context: grpc.ServicerContext) -> "ObservedCall":
        """Begins to observe a call in this thread."""
        return ObservedCall(self, context)


class ObservedCall:
    """One call. A context manager: a call that leaves it without an `end` was left by its caller.

    Attributes:
        caller: Who makes it; None until that is known.
        request: Its request, or `NamedRequests`; None until it is there.
    """

    __slots__ = ("_began", "_context", "_ended", "_method", "_span", "caller", "request")

    def __init__(self, method: MethodObserver, context: grpc.ServicerContext) -> None:
        self.caller: Caller | None = None
        self.request: Any = None
        self._method = method
        self._context = context
        self._ended = False
        self._began = method.metrics.begin() if method.metrics else 0.0
        parent = None
        for key, value in context.invocation_metadata():
            if key == TRACEPARENT:
                parent = SpanContext.parse(str(value))
        self._span = method.tracer.start(method.span_name, parent, server=True, attributes=method.attributes)
        enter(self._span)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._ended:
            code = self._context.code()  # type: ignore[attr-defined]  # missing from its stubs
            self.end(code.name if code else "CANCELLED")

    def end(self, code: str = "OK", reason: str = "", *, response: Any = None) -> None:
        """Says how the call ended. What it makes is recorded first, and nothing has ended if that fails.

        Args:
            code: Name of its status code.
            reason: Reason of its error; empty if there was none.
            response: What it answers; None if it is an error or a stream.

        Raises:
            MeshError: A call that succeeded cannot be recorded; fail it.
        """
        method = self._method
        if method.audit and reason not in UNRECORDED and (method.audited or code in REFUSED):
            self._record(method.audit, code, reason, response)
        self._ended = True
        if code != "OK" and not self._context.is_active():
            code = "CANCELLED"  # whatever became of it then, its caller had left before
        if method.metrics:
            method.metrics.end(self._began, code)
        enter(None)
        if self._span.recorded:
            self._span.describe({"rpc.grpc.status_code": grpc.StatusCode[code].value[0]})
            if code != "OK":
                self._span.fail(reason or code)
            self._span.end()

    def _record(self, audit: AuditLog, code: str, reason: str, response: Any) -> None:
        resource = resource_name(self.request, response)
        if self.caller is None:
            unrecorded = self._method.strangers.count(self._context.peer().rpartition(":")[0])
            if unrecorded is None:
                return
            if unrecorded:
                resource = f"and {unrecorded} calls from there before it"
        try:
            audit.append(
                tenant=self.caller.tenant if self.caller else "",
                subject=self.caller.subject if self.caller else "",
                method=self._method.method,
                resource=resource,
                code=code,
                reason=reason,
                trace_id=self._span.context.trace_id,
            )
        except MeshError as error:
            if code == "OK":
                raise
            _log.error("a call that failed is not in the audit log: %s", error, extra={"reason": error.reason})


class NamedRequests:
    """Passes a stream of requests on, and keeps the name of what it is for, which the first one tells.

    Attributes:
        name: The name; empty until then.
    """

    def __init__(self, requests: Iterable[Any]) -> None:
        self.name = ""
        self._requests = iter(requests)
        self._started = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        request = next(self._requests)
        if not self._started:
            self._started = True
            self.name = resource_name(request, None)
        return request


def resource_name(request: Any, response: Any) -> str:
    """Name of what a call is for: as its request has it, else as its response does; empty if neither does."""
    name = _first(request, _FULL_NAMES) or _name_in(response) or _first(request, _PARTS_OF_NAMES)
    return name[:_LONGEST_NAME]


def _first(message: Any, fields: Iterable[str]) -> str:
    values = (getattr(message, field, "") for field in fields)
    return next((value for value in values if value and isinstance(value, str)), "")


def _name_in(response: Any) -> str:
    """The name of the resource that a response is or holds."""
    if own := _first(response, ("name", "watermark")):
        return own
    parts = (value for _, value in response.ListFields()) if hasattr(response, "ListFields") else ()
    return next((name for part in parts if (name := _first(part, ("name",)))), "")
