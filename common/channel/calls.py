"""Wrappers of gRPC's methods and calls, which add deadlines, retries beyond gRPC's own, and MeshErrors."""

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from common import deadline
from common.auth.identity import Identity
from common.channel.connection import Connection, TokenFile
from common.channel.status import from_status
from common.errors import Unavailable
from common.telemetry.traces import TRACEPARENT, current

_RETRY_INTERVAL_S = 0.2

_RENEWAL_GRACE_S = 5.0
"""Seconds for which calls are retried while TLS fails, because a renewal of the certificates may be in progress."""


@dataclass(frozen=True)
class CallSettings:
    """Settings that all calls of a channel share.

    Attributes:
        address: Address of the server, `host:port`.
        identity: Certificates to trust and to present; None means no TLS.
        deadline_s: Default deadline of unary calls, in seconds.
        patience_s: See `open_channel`.
        metadata: Metadata sent with every call.
        token: Token of the user; None if there is no user.
    """

    address: str
    identity: Identity | None
    deadline_s: float
    patience_s: float
    metadata: tuple[tuple[str, str], ...]
    token: TokenFile | None

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Returns a call's options, with the shared metadata, the current trace and the token added to the metadata."""
        span = current()
        trace = ((TRACEPARENT, span.traceparent),) if span else ()
        shared = (*self.metadata, *trace, *(self.token.metadata() if self.token else ()))
        return {**options, "metadata": (*(options.get("metadata") or ()), *shared)} if shared else options


class Requests:
    """Forwards a stream of requests and keeps an exception that the caller's iterator raises; gRPC would only log it.

    Attributes:
        error: Exception that the iterator raised; None if it raised none.
    """

    def __init__(self, requests: Iterator[Any]) -> None:
        self.error: Exception | None = None
        self._requests = iter(requests)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._requests)
        except StopIteration:
            raise
        except Exception as error:
            self.error = error
            raise


class Call:
    """A running gRPC call that raises MeshErrors. It is a stream of responses, or a future for one response."""

    def __init__(self, call: Any, settings: CallSettings, requests: Requests | None = None) -> None:
        self._call = call
        self._settings = settings
        self._requests = requests

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise _cause(error, self._settings, self._requests) from None

    def result(self, timeout: float | None = None) -> Any:
        """See `grpc.Future.result`."""
        try:
            return self._call.result(timeout)
        except grpc.RpcError as error:
            raise _cause(error, self._settings, self._requests) from None

    def exception(self, timeout: float | None = None) -> Exception | None:
        """See `grpc.Future.exception`."""
        error = self._call.exception(timeout)
        return _cause(error, self._settings, self._requests) if isinstance(error, grpc.RpcError) else error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


class Method:
    """A method of a service, with the interface of gRPC's callables.

    Args:
        connection: Connection to the server.
        bind: Function that takes a gRPC channel and returns gRPC's callable for the method on that channel.
        settings: Settings of the channel's calls.
        streams_requests: Whether the method takes a stream of requests.
        unary: Whether the method takes one message and returns one message.
    """

    def __init__(
        self,
        connection: Connection,
        bind: Callable[[grpc.Channel], Any],
        settings: CallSettings,
        *,
        streams_requests: bool = False,
        unary: bool = False,
    ) -> None:
        self._connection = connection
        self._bind = bind
        channel = connection.channel()
        self._bound = channel, bind(channel)
        self._settings = settings
        self._streams_requests = streams_requests
        self._deadline_s = settings.deadline_s if unary else None
        self._patience_s = settings.patience_s if unary else 0.0

    def __call__(self, request: Any, timeout: float | None = None, **options: Any) -> Any:
        return self.with_call(request, timeout, **options)[0]

    def with_call(self, request: Any, timeout: float | None = None, **options: Any) -> tuple[Any, Any]:
        """Calls the method; returns the response and gRPC's call. See `grpc.UnaryUnaryMultiCallable.with_call`."""
        requests, options = self._captured(request), self._settings.options(options)
        began_s = tls_worked_s = time.monotonic()
        while True:
            try:
                response, call = self._method().with_call(requests or request, timeout=self._limit(timeout), **options)
            except grpc.RpcError as error:
                cause, now_s = _cause(error, self._settings, requests), time.monotonic()
                if getattr(cause, "reason", "") != "TLS_FAILED":
                    tls_worked_s = now_s
                gives_up = now_s >= began_s + self._patience_s or now_s >= tls_worked_s + _RENEWAL_GRACE_S
                if not isinstance(cause, Unavailable) or gives_up:
                    raise cause from None
                time.sleep(_RETRY_INTERVAL_S)
            else:
                return response, call

    def future(self, request: Any, timeout: float | None = None, **options: Any) -> Call:
        """Starts a call with one response."""
        requests, options = self._captured(request), self._settings.options(options)
        method, limit_s = self._method(), self._limit(timeout)
        call = _uninterrupted(lambda: method.future(requests or request, timeout=limit_s, **options))
        return Call(call, self._settings, requests)

    def stream(self, request: Any, timeout: float | None = None, **options: Any) -> Call:
        """Starts a call with a stream of responses."""
        requests, options = self._captured(request), self._settings.options(options)
        method, limit_s = self._method(), self._limit(timeout)
        call = _uninterrupted(lambda: method(requests or request, timeout=limit_s, **options))
        return Call(call, self._settings, requests)

    def _method(self) -> Any:
        channel, method = self._bound
        if (current_channel := self._connection.channel()) is not channel:
            method = self._bind(current_channel)
            self._bound = current_channel, method
        return method

    def _captured(self, request: Any) -> Requests | None:
        return Requests(request) if self._streams_requests else None

    def _limit(self, timeout: float | None) -> float | None:
        return deadline.within(self._deadline_s if timeout is None else timeout)


def _uninterrupted(start: Callable[[], Any]) -> Any:
    """Starts a call that gRPC handles in a background thread, without interruption by Ctrl-C.

    If KeyboardInterrupt is raised after gRPC (1.85) has registered the call, but before it has started the thread,
    closing the channel waits for ever. Only the main thread is interrupted, so another thread starts the call.

    Args:
        start: Function that starts the call, and returns at once.
    """
    if threading.current_thread() is not threading.main_thread():
        return start()
    executor = ThreadPoolExecutor(1)
    try:
        return executor.submit(contextvars.copy_context().run, start).result()
    finally:
        executor.shutdown(wait=False)


def _cause(error: grpc.RpcError, settings: CallSettings, requests: Requests | None) -> Exception:
    """Returns the cause of a failed call: an exception raised by the caller's iterator, or the server's error."""
    if requests and requests.error:
        return requests.error
    return from_status(error, address=settings.address, identity=settings.identity)
