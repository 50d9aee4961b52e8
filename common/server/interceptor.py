"""The one interceptor of every server: who calls, deadlines, how many streams at once, and errors as rich statuses.

A MeshError becomes a status with details (`common.server.status`); any other exception is a bug of ours, is logged with
its traceback, and tells the caller nothing but INTERNAL. A unary call that brings no deadline gets the server's. Calls
that fail are logged as INFO, the others as DEBUG. Health checks pass untouched: they have to answer when all else is
refused.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from grpc_status import rpc_status

from common.errors import DeadlineExceeded, Internal, MeshError, ResourceExhausted
from common.names import DEFAULT_TENANT
from common.server.status import to_status

_HEALTH = "/grpc.health.v1.Health/"
_FOREVER_S = 1e9
"""gRPC tells of a call without a deadline that more time than this remains."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caller:
    """Who makes a call.

    Attributes:
        tenant: Whose data they see.
        subject: Who they are.
    """

    tenant: str
    subject: str


_LOCAL = Caller(tenant=DEFAULT_TENANT, subject="local")


def caller(context: grpc.ServicerContext) -> Caller:
    """Tells who makes a call. Loopback is not told apart: everyone is `local`, of the tenant `default`."""
    return _LOCAL


class Interceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs only
    """Wraps every method of a server. Thread-safe.

    Args:
        max_streams: Calls with a stream in either direction that may run at once.
        deadline_s: Seconds that a unary call may take that brings no deadline of its own.
    """

    def __init__(self, max_streams: int, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._streams = threading.BoundedSemaphore(max_streams)
        self._max_streams = max_streams
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Returns the method's wrapped handler; wrapping is done once a method."""
        handler = continuation(details)
        if handler is None or details.method.startswith(_HEALTH):
            return handler
        original, wrapped = self._wrapped.get(details.method, (None, None))
        if original is not handler:
            wrapped = self._wrap(details.method, handler)
            self._wrapped[details.method] = handler, wrapped
        return wrapped

    def _wrap(self, method: str, handler: Any) -> Any:
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if not handler.request_streaming and not handler.response_streaming:
            behaviour = _single(method, _bounded(handler.unary_unary, self._deadline_s))
            return grpc.unary_unary_rpc_method_handler(behaviour, **codec)
        if handler.request_streaming and not handler.response_streaming:
            behaviour = self._capped(_single(method, handler.stream_unary), method)
            return grpc.stream_unary_rpc_method_handler(behaviour, **codec)
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(self._many(method, handler.stream_stream), **codec)
        return grpc.unary_stream_rpc_method_handler(self._many(method, handler.unary_stream), **codec)

    def _enter_stream(self, method: str, context: grpc.ServicerContext) -> None:
        if not self._streams.acquire(blocking=False):
            message = f"{self._max_streams} streams are open, the most this server takes; try again later"
            _abort(context, method, ResourceExhausted("TOO_MANY_STREAMS", message, retry_delay_s=1.0))

    def _capped(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        def call(requests: Any, context: grpc.ServicerContext) -> Any:
            self._enter_stream(method, context)
            try:
                return behaviour(requests, context)
            finally:
                self._streams.release()

        return call

    def _many(self, method: str, behaviour: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            # All of it runs when gRPC takes the first response, so that a call which ends before that holds no place.
            self._enter_stream(method, context)
            try:
                yield from behaviour(request, context)
                _logger.debug("done", extra={"method": method})
                return
            except Exception as error:  # noqa: BLE001 - the one place where a bug becomes a status
                failure = _failure(method, context, error)
            finally:
                self._streams.release()
            _abort(context, method, failure)

        return call


class _BoundedContext:
    """The context of a call that brought no deadline, with the one it was given."""

    def __init__(self, context: grpc.ServicerContext, end: float) -> None:
        self._context = context
        self._end = end

    def time_remaining(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _bounded(behaviour: Callable[..., Any], deadline_s: float) -> Callable[..., Any]:
    def call(request: Any, context: grpc.ServicerContext) -> Any:
        remaining = context.time_remaining()
        if remaining is not None and remaining < _FOREVER_S:
            if remaining <= 0:
                raise DeadlineExceeded("DEADLINE_EXCEEDED", "the deadline passed before the call began")
            return behaviour(request, context)
        end = time.monotonic() + deadline_s
        response = behaviour(request, _BoundedContext(context, end))
        if time.monotonic() > end:
            message = f"took longer than {deadline_s:g} s, which a call without a deadline gets; set a deadline"
            raise DeadlineExceeded("DEADLINE_EXCEEDED", message)
        return response

    return call


def _single(method: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
    def call(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            response = behaviour(request, context)
        except Exception as error:  # noqa: BLE001 - the one place where a bug becomes a status
            failure = _failure(method, context, error)
        else:
            _logger.debug("done", extra={"method": method})
            return response
        _abort(context, method, failure)

    return call


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
