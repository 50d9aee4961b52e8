"""Observes every call to a server: its span, its metrics, and its record in the audit log.

The interceptor starts an observation when a call arrives and ends it before the response is sent, so the audit log
records a change before the caller learns of the change. The log contains every call to a method that requires the role
writer or higher, and every call that failed authentication or authorization. It contains neither successful reads nor
successful calls of methods that their contract marks as `unaudited`.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import grpc

from common.auth import Caller
from common.errors import MeshError
from common.service import Service
from common.telemetry.audit import AuditLog
from common.telemetry.traces import TRACEPARENT, SpanContext, Tracer, enter

if TYPE_CHECKING:
    from common.telemetry.metrics import Metrics

REFUSED = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})
"""Status codes of calls that are audited regardless of their method."""

UNRECORDED = frozenset({"RATE_EXCEEDED"})
"""Error reasons of calls that are not audited: a flood of calls must not become a flood of disk writes."""

_UNAUTHENTICATED_BURST = 100
_MAX_HOSTS = 1000

_LONGEST_NAME = 256

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResourceFields:
    """Fields of messages that name the resource of a call.

    Attributes:
        full: Fields of requests and responses that contain the resource's full name.
        parts: Fields of requests that contain a part of the name, used only if neither message contains a full name.
    """

    full: tuple[str, ...] = ("name",)
    parts: tuple[str, ...] = ("parent",)

    @classmethod
    def of(cls, service: Service) -> Self:
        """Returns the fields that name resources in a service's messages."""
        return cls(("name", *service.resources), ("parent", *service.parents))

    def name(self, request: Any, response: Any) -> str:
        """Returns the name of a call's resource, from the request or the response; empty if neither contains it."""
        name = _first(request, self.full) or self._name_in(response) or _first(request, self.parts)
        return name[:_LONGEST_NAME]

    def _name_in(self, response: Any) -> str:
        """Returns the name of the resource that a response is or contains."""
        if own := _first(response, self.full):
            return own
        return next((name for part in _parts(response) if (name := _first(part, ("name",)))), "")

    def digest(self, response: Any) -> str:
        """Returns the digest of the named resource that a response contains; empty if it states none."""
        return next((_first(part, ("sha256",)) for part in _parts(response) if _first(part, ("name",))), "")


class UnauthenticatedRecords:
    """Limits audit records of unauthenticated calls, which use disk space but cost the caller nothing. Thread-safe.

    The first 100 calls from a host are recorded. After that, one call per second is recorded, and its record contains
    the number of unrecorded calls before it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._hosts: OrderedDict[str, tuple[float, float, int]] = OrderedDict()  # records left, since, unrecorded

    def count(self, host: str) -> int | None:
        """Counts a call. Returns the number of unrecorded calls before it; None if this call must not be recorded."""
        now = self._clock()
        with self._lock:
            left, since, unrecorded = self._hosts.pop(host, (float(_UNAUTHENTICATED_BURST), now, 0))
            left = min(_UNAUTHENTICATED_BURST, left + now - since)
            recorded = left >= 1
            self._hosts[host] = (left - 1, now, 0) if recorded else (left, now, unrecorded + 1)
            if len(self._hosts) > _MAX_HOSTS:
                self._hosts.popitem(last=False)
        return unrecorded if recorded else None


class CallObserver:
    """Observes the calls to a server. Thread-safe. The observer does not close its arguments.

    Args:
        tracer: Tracer that creates the spans of the calls.
        metrics: Metrics that count the calls; None if the calls are not counted.
        audit: Audit log that records the calls; None if the calls are not recorded.
        fields: Fields that name the resource of a call in the audit log.
    """

    def __init__(
        self,
        tracer: Tracer,
        *,
        metrics: "Metrics | None" = None,
        audit: AuditLog | None = None,
        fields: ResourceFields = ResourceFields(),
    ) -> None:
        self.tracer = tracer
        self.fields = fields
        self.metrics = metrics
        self.audit = audit
        self.unauthenticated_records = UnauthenticatedRecords()

    def of_method(self, method: str, *, audited: bool, only_failures: bool = False) -> "MethodObserver":
        """Returns the observer of one method.

        Args:
            method: Path of the method, `/<service>/<method>`.
            audited: Whether all calls are audited, not only those that failed authentication or authorization.
            only_failures: Whether successful calls are not audited nevertheless.
        """
        return MethodObserver(self, method, audited=audited, only_failures=only_failures)


class MethodObserver:
    """Observes the calls to one method. Created by `CallObserver.of_method`."""

    def __init__(self, observer: CallObserver, method: str, *, audited: bool, only_failures: bool) -> None:
        self.method = method
        self.audited = audited
        self.only_failures = only_failures
        self.tracer = observer.tracer
        self.audit = observer.audit
        self.fields = observer.fields
        self.unauthenticated_records = observer.unauthenticated_records
        self.metrics = observer.metrics.of_method(method) if observer.metrics else None
        self.span_name = method.removeprefix("/")
        service, _, name = self.span_name.partition("/")
        self.attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}

    def begin(self, context: grpc.ServicerContext) -> "ObservedCall":
        """Starts the observation of a call in this thread."""
        return ObservedCall(self, context)


class ObservedCall:
    """One observed call, used as a context manager.

    If `end` is not called within the `with` block, the observation ends with the status code that was set on gRPC's
    context. If none was set, the caller has disconnected, and the code is CANCELLED.

    Attributes:
        caller: The caller; None until it is authenticated.
        request: The request, or `NamedRequests` for a stream of requests; None until it has arrived.
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

    def read_stream(self, requests: Iterable[Any]) -> None:
        """Sets `request` to a stream of requests. The first request names the call's resource."""
        self.request = NamedRequests(requests, self._method.fields)

    def end(self, code: str = "OK", reason: str = "", *, response: Any = None) -> None:
        """Ends the observation. The audit record is written first; if that fails, the observation continues.

        Args:
            code: Name of the status code.
            reason: Reason of the error; empty if the call succeeded.
            response: The response; None for an error or a stream.

        Raises:
            MeshError: A successful call cannot be recorded; the caller of this method must fail the call.
        """
        method = self._method
        if (
            method.audit
            and reason not in UNRECORDED
            and (method.audited or code in REFUSED)
            and not (method.only_failures and code == "OK")
        ):
            self._record(method.audit, code, reason, response)
        self._ended = True
        if code != "OK" and not self._context.is_active():
            code = "CANCELLED"  # the caller had left before the call ended
        if method.metrics:
            method.metrics.end(self._began, code)
        enter(None)
        if self._span.recorded:
            self._span.describe({"rpc.grpc.status_code": grpc.StatusCode[code].value[0]})
            if code != "OK":
                self._span.fail(reason or code)
            self._span.end()

    def _record(self, audit: AuditLog, code: str, reason: str, response: Any) -> None:
        resource = self._method.fields.name(self.request, response)
        if self.caller is None:
            unrecorded = self._method.unauthenticated_records.count(self._context.peer().rpartition(":")[0])
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
                sha256=self._method.fields.digest(response),
                code=code,
                reason=reason,
                trace_id=self._span.context.trace_id,
            )
        except MeshError as error:
            if code == "OK":
                raise
            _logger.error("cannot record a failed call in the audit log: %s", error, extra={"reason": error.reason})


class NamedRequests:
    """Forwards a stream of requests and keeps the name of the resource, which the first request contains.

    Attributes:
        name: Name of the resource; empty until the first request has arrived.
    """

    def __init__(self, requests: Iterable[Any], fields: ResourceFields) -> None:
        self.name = ""
        self._fields = fields
        self._requests = iter(requests)
        self._started = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        request = next(self._requests)
        if not self._started:
            self._started = True
            self.name = self._fields.name(request, None)
        return request


def _parts(message: Any) -> list[Any]:
    """Returns the values of the fields that are set in a message."""
    return [value for _, value in message.ListFields()] if hasattr(message, "ListFields") else []


def _first(message: Any, fields: Iterable[str]) -> str:
    values = (getattr(message, field, "") for field in fields)
    return next((value for value in values if value and isinstance(value, str)), "")
