"""The one interceptor of every server: who calls and what they may, deadlines, limits, and errors as rich statuses.

Deny by default: a call reaches its servicer only if the authenticator knows its caller and the method declares a role
that the caller has.

A MeshError becomes a status with details (`common.server.status`); any other exception is a bug of ours, is logged with
its traceback, and tells the caller nothing but INTERNAL. A unary call that brings no deadline gets the server's. Calls
that fail are logged as INFO, the others as DEBUG; all are observed (`common.telemetry.calls`). Health checks pass
untouched: they have to answer when all else is refused.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn, cast

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from common import deadline
from common.auth import Caller, Role
from common.auth.authenticator import Authenticator
from common.auth.limits import CallerLimits
from common.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    MeshError,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from common.server.arrivals import Arrivals
from common.server.readiness import health_request
from common.server.status import to_status
from common.telemetry.calls import CallObserver, MethodObserver, NamedRequests, ObservedCall

_HEALTH = "/grpc.health.v1.Health/"
_ASK_AGAIN_S = 1.0
"""How often a stream is asked whether its caller would still be let in."""

_FOREVER_S = 1e9
"""gRPC tells of a call without a deadline that more time than this remains."""

_logger = logging.getLogger(__name__)


class CallContext:
    """The context of one call: gRPC's, with who makes it.

    Attributes:
        caller: Who.
        has_own_deadline: Whether it brought a deadline; known once it is bound.
    """

    def __init__(self, context: grpc.ServicerContext, caller: Caller) -> None:
        self.caller = caller
        self.has_own_deadline = True
        self._context = context
        self._end_s: float | None = None

    def bound(self, deadline_s: float) -> float:
        """Gives the call a deadline if it has none; tells when it ends on the monotonic clock.

        Raises:
            DeadlineExceeded: The caller's own has passed.
        """
        remaining_s = self._context.time_remaining()
        self.has_own_deadline = remaining_s is not None and remaining_s < _FOREVER_S
        if remaining_s is not None and remaining_s <= 0:
            raise DeadlineExceeded("DEADLINE_EXCEEDED", "the deadline passed before the call began")
        self._end_s = time.monotonic() + (remaining_s if self.has_own_deadline and remaining_s else deadline_s)
        return self._end_s

    def time_remaining(self) -> float | None:
        """Seconds until the deadline."""
        return self._context.time_remaining() if self._end_s is None else max(0.0, self._end_s - time.monotonic())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def caller(context: grpc.ServicerContext) -> Caller:
    """Tells who makes a call."""
    return cast(CallContext, context).caller


class Interceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs only
    """Wraps every method of a server. Thread-safe.

    Args:
        authenticator: Tells who calls.
        roles: The least role of every method by its path; a method without one cannot be called.
        limits: What one caller may ask for.
        arrivals: Waits for requests.
        observer: Sees every call.
        max_streams: Calls with a stream in either direction that may run at once.
        deadline_s: Seconds that a unary call may take that brings no deadline of its own.
        max_message_bytes: Largest response.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        roles: Mapping[str, Role],
        limits: CallerLimits,
        arrivals: Arrivals,
        observer: CallObserver,
        *,
        max_streams: int,
        deadline_s: float,
        max_message_bytes: int,
    ) -> None:
        self._authenticator = authenticator
        self._roles = roles
        self._limits = limits
        self._arrivals = arrivals
        self._observer = observer
        self._deadline_s = deadline_s
        self._max_message_bytes = max_message_bytes
        self._streams = threading.BoundedSemaphore(max_streams)
        self._max_streams = max_streams
        self._wrapped: dict[str, Any] = {}
        self._draining = False

    def drain(self) -> None:
        """Refuses all calls from now on; those that were admitted finish."""
        self._draining = True

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Returns the method's wrapped handler; both are looked for once a method."""
        wrapped = self._wrapped.get(details.method)
        if wrapped is None and (handler := continuation(details)) is not None:
            if details.method.startswith(_HEALTH):
                wrapped = handler._replace(request_deserializer=health_request)
            else:
                wrapped = self._wrap(details.method, handler)
            self._wrapped[details.method] = wrapped
        return wrapped

    def _wrap(self, method: str, handler: Any) -> Any:
        """Takes every call as one that streams its requests, which is the same on the wire: for a call with one request
        gRPC waits before anybody can ask who makes it."""
        parse = handler.request_deserializer
        # Responses are serialized here, because gRPC's error for one that is too large has no details.
        serialize = partial(self._serialized, handler.response_serializer)
        codec = {"request_deserializer": _message_or_error(parse) if parse else None, "response_serializer": None}
        if handler.response_streaming:
            behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
            answer = self._many(method, behaviour, serialize, streams_requests=handler.request_streaming)
            return grpc.stream_stream_rpc_method_handler(answer, **codec)
        if handler.request_streaming:
            behaviour = self._capped(handler.stream_unary)
        else:
            behaviour = self._bounded(handler.unary_unary)
        answer = self._single(method, behaviour, serialize, streams_requests=handler.request_streaming)
        return grpc.stream_unary_rpc_method_handler(answer, **codec)

    def _observe(self, method: str) -> MethodObserver:
        return self._observer.of_method(method, audited=self._roles.get(method, Role.PREDICTOR) >= Role.WRITER)

    def _admit(
        self, method: str, requests: Iterator[Any], context: grpc.ServicerContext, call: ObservedCall, *, streams: bool
    ) -> tuple[Any, CallContext]:
        """The call's request, or requests, and its context, once it is known that its caller may make it.

        Raises:
            Unavailable: SERVER_STOPPING.
            Unauthenticated, PermissionDenied: They may not.
            ResourceExhausted: RATE_EXCEEDED, REQUEST_TOO_SLOW.
            InvalidArgument: BAD_MESSAGE.
        """
        if self._draining:
            raise Unavailable("SERVER_STOPPING", "the service is stopping; call again", retry_delay_s=1)
        caller = call.caller = self._authenticator.authenticate(context)
        # Before anything else, since a refusal costs as much as an answer.
        self._limits.count(caller)
        admitted = CallContext(context, caller)
        if streams:
            call.request = NamedRequests(self._while_known(map(_message, requests), context))
        else:
            call.request = _message(self._arrivals.first(requests, admitted))
        role = self._roles.get(method)
        if role is None or caller.role < role:
            message = f"{caller.subject} is a {caller.role}; {method} takes a {role or 'role that nobody has'}"
            raise PermissionDenied("ROLE_MISSING", message)
        return call.request, admitted

    def _while_known(self, messages: Iterable[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """Passes on the messages of a stream for as long as its caller would be let in: tokens expire, keys go.

        Raises:
            Unauthenticated: They would not any more.
        """
        asked_s = time.monotonic()
        for message in messages:
            now = time.monotonic()
            if now - asked_s > _ASK_AGAIN_S:
                self._authenticator.authenticate(context)
                asked_s = now
            yield message

    @contextmanager
    def _stream(self, context: CallContext) -> Iterator[None]:
        if not self._streams.acquire(blocking=False):
            message = f"{self._max_streams} streams are open, the most this server takes; try again later"
            raise ResourceExhausted("TOO_MANY_STREAMS", message, retry_delay_s=1.0)
        try:
            with self._limits.stream(context.caller):
                yield
        finally:
            self._streams.release()

    def _serialized(self, serializer: Callable[[Any], bytes] | None, response: Any) -> bytes:
        """Serializes a response.

        Raises:
            ResourceExhausted: MESSAGE_TOO_LARGE.
        """
        data: bytes = serializer(response) if serializer else response
        if len(data) > self._max_message_bytes:
            message = (
                f"the response has {len(data)} bytes; the limit is {self._max_message_bytes}. Request less at a time, "
                "or raise `max_message_bytes` of the service"
            )
            raise ResourceExhausted("MESSAGE_TOO_LARGE", message)
        return data

    def _single(
        self,
        method: str,
        behaviour: Callable[[Any, CallContext], Any],
        serialize: Callable[[Any], bytes],
        *,
        streams_requests: bool,
    ) -> Callable[..., Any]:
        observer = self._observe(method)

        def call(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            with observer.begin(context) as observed:
                try:
                    response = behaviour(*self._admit(method, requests, context, observed, streams=streams_requests))
                    data = serialize(response)
                    observed.end(response=response)
                except Exception as error:  # noqa: BLE001 - the one place where a bug becomes a status
                    failure = _failure(method, context, error)
                    observed.end(failure.code, failure.reason)
                else:
                    _logger.debug("done", extra={"method": method})
                    return data
            _abort(context, method, failure)

        return call

    def _many(
        self,
        method: str,
        behaviour: Callable[..., Iterator[Any]],
        serialize: Callable[[Any], bytes],
        *,
        streams_requests: bool,
    ) -> Callable[..., Iterator[Any]]:
        observer = self._observe(method)

        def call(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            # All of it runs when gRPC takes the first response, so that a call which ends before that holds no place.
            with observer.begin(context) as observed:
                try:
                    request, admitted = self._admit(method, requests, context, observed, streams=streams_requests)
                    with self._stream(admitted):
                        yield from map(serialize, self._while_known(behaviour(request, admitted), context))
                    observed.end()
                    _logger.debug("done", extra={"method": method})
                    return
                except Exception as error:  # noqa: BLE001 - the one place where a bug becomes a status
                    failure = _failure(method, context, error)
                    observed.end(failure.code, failure.reason)
            _abort(context, method, failure)

        return call

    def _capped(self, behaviour: Callable[..., Any]) -> Callable[[Any, CallContext], Any]:
        def call(requests: Any, context: CallContext) -> Any:
            with self._stream(context):
                return behaviour(requests, context)

        return call

    def _bounded(self, behaviour: Callable[..., Any]) -> Callable[[Any, CallContext], Any]:
        def call(request: Any, context: CallContext) -> Any:
            end_s = context.bound(self._deadline_s)
            with deadline.until(end_s):
                response = behaviour(request, context)
            if not context.has_own_deadline and time.monotonic() > end_s:
                message = (
                    f"took longer than {self._deadline_s:g} s, which a call without a deadline gets; set a deadline"
                )
                raise DeadlineExceeded("DEADLINE_EXCEEDED", message)
            return response

        return call


def _message_or_error(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Parses to a message, or to the error that bytes are which are none.

    gRPC parses before the call, where the error would be INTERNAL, and logged as a bug of ours.
    """

    def message_or_error(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return InvalidArgument("BAD_MESSAGE", "the bytes are no request of this method; see its contract")

    return message_or_error


def _message(parsed: Any) -> Any:
    if isinstance(parsed, InvalidArgument):
        raise parsed
    return parsed


def _failure(method: str, context: Any, error: Exception) -> MeshError:
    """What a caller may know of an exception.

    Raises:
        Exception: The exception itself, if gRPC made it: the caller has left, or was told already.
    """
    if isinstance(error, MeshError):
        return error
    if context.code() is not None or (isinstance(error, grpc.RpcError) and not context.is_active()):
        raise error
    _logger.error("bug in %s", method, exc_info=error, extra={"method": method})
    return Internal("INTERNAL", "the service failed; its log tells why")


def _abort(context: grpc.ServicerContext, method: str, error: MeshError) -> NoReturn:
    _logger.info("%s", error.message, extra={"method": method, "code": error.code, "reason": error.reason})
    context.abort_with_status(rpc_status.to_status(to_status(error)))
    raise AssertionError("abort_with_status raises")
