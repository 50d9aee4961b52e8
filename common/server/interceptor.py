"""The interceptor of every server: authentication, roles, limits, deadlines, and error statuses with details.

Deny by default: a call reaches its servicer only if its caller is authenticated and has the role that the method
requires. A MeshError becomes a status with details (`common.server.status`). Any other exception is a bug: it is logged
with its traceback, and the caller sees only INTERNAL. A unary call without a deadline gets the server's default.
Failed calls are logged at INFO and other calls at DEBUG; all calls are observed (`common.telemetry.calls`). Health
checks bypass all of this, because a server must answer them even while it rejects all other calls.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from common import deadline
from common.auth import Role
from common.auth.authenticator import Authenticator
from common.auth.limits import CallerLimits
from common.call_context import CallContext
from common.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    MeshError,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from common.server.readiness import health_request
from common.server.slow_requests import SlowRequestGuard
from common.server.status import to_status
from common.telemetry.calls import CallObserver, MethodObserver, ObservedCall

_HEALTH = "/grpc.health.v1.Health/"
_RECHECK_INTERVAL_S = 1.0
"""Interval in seconds at which the caller of an open stream is authenticated again."""

_logger = logging.getLogger(__name__)


class Interceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs only
    """Wraps every method of a server. Thread-safe.

    Args:
        authenticator: Authenticates the caller of every call.
        roles: Required role of each method, by the method's path; a method without a role cannot be called.
        limits: Rate and stream limits per caller.
        slow_requests: Guard that receives the requests of unary calls.
        observer: Observer of every call.
        unaudited: Paths of the methods whose successful calls the audit log omits.
        max_streams: Maximum number of open calls with a stream in either direction.
        deadline_s: Default deadline of unary calls, in seconds.
        max_message_bytes: Maximum size of a response.

    Attributes:
        num_rejected: Number of calls rejected since `drain`. Approximate, but it changes with each of them.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        roles: Mapping[str, Role],
        limits: CallerLimits,
        slow_requests: SlowRequestGuard,
        observer: CallObserver,
        *,
        unaudited: Collection[str] = (),
        max_streams: int,
        deadline_s: float,
        max_message_bytes: int,
    ) -> None:
        self._unaudited = unaudited
        self._authenticator = authenticator
        self._roles = roles
        self._limits = limits
        self._slow_requests = slow_requests
        self._observer = observer
        self._deadline_s = deadline_s
        self._max_message_bytes = max_message_bytes
        self._streams = threading.BoundedSemaphore(max_streams)
        self._max_streams = max_streams
        self._wrapped: dict[str, Any] = {}
        self._draining = False
        self.num_rejected = 0

    def drain(self) -> None:
        """Rejects new calls from now on. Calls that were already admitted continue."""
        self._draining = True

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Returns the wrapped handler of a method. The handler is created once per method."""
        wrapped = self._wrapped.get(details.method)
        if wrapped is None and (handler := continuation(details)) is not None:
            if details.method.startswith(_HEALTH):
                wrapped = handler._replace(request_deserializer=health_request)
            else:
                wrapped = self._wrap(details.method, handler)
            self._wrapped[details.method] = wrapped
        return wrapped

    def _wrap(self, method: str, handler: Any) -> Any:
        """Returns a handler that treats every method as one with a request stream. On the wire, both look the same.

        With a handler that takes a single request, gRPC would wait for the request before this code could authenticate
        the caller.
        """
        parse = handler.request_deserializer
        # Responses are serialized here because gRPC's own error for an oversized response has no details.
        serialize = partial(self._serialized, handler.response_serializer)
        codec = {"request_deserializer": _message_or_error(parse) if parse else None, "response_serializer": None}
        if handler.response_streaming:
            behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
            answer = self._many(method, behaviour, serialize, streams_requests=handler.request_streaming)
            return grpc.stream_stream_rpc_method_handler(answer, **codec)
        if handler.request_streaming:
            behaviour = self._with_stream_limit(handler.stream_unary)
        else:
            behaviour = self._with_deadline(handler.unary_unary)
        answer = self._single(method, behaviour, serialize, streams_requests=handler.request_streaming)
        return grpc.stream_unary_rpc_method_handler(answer, **codec)

    def _observe(self, method: str) -> MethodObserver:
        audited = self._roles.get(method, Role.PREDICTOR) >= Role.WRITER
        return self._observer.of_method(method, audited=audited, only_failures=method in self._unaudited)

    def _admit(
        self, method: str, requests: Iterator[Any], context: grpc.ServicerContext, call: ObservedCall, *, streams: bool
    ) -> tuple[Any, CallContext]:
        """Authenticates and authorizes a call; returns its request, or its stream of requests, and its context.

        Raises:
            Unavailable: SERVER_STOPPING.
            Unauthenticated, PermissionDenied: The caller may not make the call.
            ResourceExhausted: RATE_EXCEEDED, REQUEST_TOO_SLOW.
            InvalidArgument: BAD_MESSAGE.
        """
        if self._draining:
            self.num_rejected += 1
            raise Unavailable("SERVER_STOPPING", "the service is stopping; try again", retry_delay_s=1)
        caller = call.caller = self._authenticator.authenticate(context)
        # Counted before the other checks, so that rejected calls count too: they cost as much as other calls.
        self._limits.count(caller)
        admitted = CallContext(context, caller)
        if streams:
            call.read_stream(self._while_authenticated(map(_message, requests), context))
        else:
            call.request = _message(self._slow_requests.first(requests, admitted))
        role = self._roles.get(method)
        if role is None or caller.role < role:
            message = (
                f"{caller.subject} has the role {caller.role}; {method} requires {role or 'a role that no caller has'}"
            )
            raise PermissionDenied("ROLE_MISSING", message)
        return call.request, admitted

    def _while_authenticated(self, messages: Iterable[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """Forwards the messages of a stream as long as its caller remains authenticated.

        While a stream is open, tokens may expire and keys may be revoked.

        Raises:
            Unauthenticated: The credentials are no longer valid.
        """
        checked_s = time.monotonic()
        for message in messages:
            now = time.monotonic()
            if now - checked_s > _RECHECK_INTERVAL_S:
                self._authenticator.authenticate(context)
                checked_s = now
            yield message

    @contextmanager
    def _stream(self, context: CallContext) -> Iterator[None]:
        if not self._streams.acquire(blocking=False):
            message = f"this server has {self._max_streams} open streams, the maximum; try again later"
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
                "or raise the service's setting `max_message_bytes`"
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
            # No code runs until gRPC asks for the first response, so a call that ends earlier occupies no stream.
            with observer.begin(context) as observed:
                try:
                    request, admitted = self._admit(method, requests, context, observed, streams=streams_requests)
                    with self._stream(admitted):
                        yield from map(serialize, self._while_authenticated(behaviour(request, admitted), context))
                    observed.end()
                    _logger.debug("done", extra={"method": method})
                    return
                except Exception as error:  # noqa: BLE001 - the one place where a bug becomes a status
                    failure = _failure(method, context, error)
                    observed.end(failure.code, failure.reason)
            _abort(context, method, failure)

        return call

    def _with_stream_limit(self, behaviour: Callable[..., Any]) -> Callable[[Any, CallContext], Any]:
        def call(requests: Any, context: CallContext) -> Any:
            with self._stream(context):
                return behaviour(requests, context)

        return call

    def _with_deadline(self, behaviour: Callable[..., Any]) -> Callable[[Any, CallContext], Any]:
        def call(request: Any, context: CallContext) -> Any:
            end_s = context.set_deadline(self._deadline_s)
            with deadline.until(end_s):
                response = behaviour(request, context)
            if not context.has_own_deadline and time.monotonic() > end_s:
                message = f"the call took longer than {self._deadline_s:g} s, the default deadline; set a longer one"
                raise DeadlineExceeded("DEADLINE_EXCEEDED", message)
            return response

        return call


def _message_or_error(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Returns a parser that returns an error instead of raising it.

    gRPC parses requests before the handler runs; an exception in the parser would become INTERNAL and be logged as a
    bug.
    """

    def message_or_error(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return InvalidArgument("BAD_MESSAGE", "the request cannot be parsed; see the contract of this method")

    return message_or_error


def _message(parsed: Any) -> Any:
    if isinstance(parsed, InvalidArgument):
        raise parsed
    return parsed


def _failure(method: str, context: Any, error: Exception) -> MeshError:
    """Returns the error that the caller receives for an exception.

    Raises:
        Exception: The exception itself, if gRPC raised it because the caller has disconnected, or if the call already
            has a status.
    """
    if isinstance(error, MeshError):
        return error
    if context.code() is not None or (isinstance(error, grpc.RpcError) and not context.is_active()):
        raise error
    _logger.error("bug in %s", method, exc_info=error, extra={"method": method})
    return Internal("INTERNAL", "the service failed; see its log")


def _abort(context: grpc.ServicerContext, method: str, error: MeshError) -> NoReturn:
    _logger.info("%s", error.message, extra={"method": method, "code": error.code, "reason": error.reason})
    context.abort_with_status(rpc_status.to_status(to_status(error)))
    raise AssertionError("abort_with_status raises")
