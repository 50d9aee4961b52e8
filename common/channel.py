"""Channels to services: a default deadline, retries while a service is away, and errors as MeshErrors.

A stub on such a channel raises the class that the server raised (`common.errors`), with its reason, fields and retry
delay; no caller sees a `grpc.RpcError`. A call that finds the service UNAVAILABLE is tried again with exponential
backoff by gRPC itself; creating calls are safe to repeat because they carry a `request_id`. A stream never
is, in either direction: gRPC loses messages, or hangs, when it sends one again (docs/decisions/0006); its caller knows
where to go on. A connection that has gone silent counts as broken after a quarter of a minute (`common.keepalive`).
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from common import deadline
from common.auth.handshake import why_tls_failed
from common.auth.identity import SERVICE_HEADER, Identity, read_token
from common.errors import (
    ERROR_CLASSES,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MeshError,
    Unavailable,
    Violation,
)
from common.keepalive import KEEPALIVE
from common.telemetry.traces import TRACEPARENT, current

MAX_MESSAGE_BYTES = 64 << 20
"""Largest message that is sent or taken unless a caller says otherwise."""

_RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
_PAUSE_S = 0.2
_RENEWAL_S = 5.0
"""Seconds that certificates which do not fit are given to be renewed: a service that starts deserves more patience."""

_LOOK_S = 1.0
# Reasons of errors that gRPC makes itself, without details.
_OWN_REASONS = {
    "UNAVAILABLE": "SERVICE_UNREACHABLE",
    "RESOURCE_EXHAUSTED": "TOO_MANY_CALLS",
    "UNIMPLEMENTED": "UNKNOWN_METHOD",
    "UNKNOWN": "INTERNAL",
}


def open_channel(
    address: str,
    *,
    identity: Path | None = None,
    token_file: Path | None = None,
    service: str = "",
    deadline_s: float = 30,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    retry: bool = True,
    patience_s: float = 0,
) -> grpc.Channel:
    """Opens a channel; it connects when first used.

    Args:
        address: `host:port`.
        identity: Folder with whom to trust and who we are (`common.auth.Identity`), looked at again every second; None
            means no TLS.
        token_file: File with a user's token, sent with every call; looked at again every second.
        service: Name of the service that is meant, e.g. `trainer`, sent with every call: an edge that stands before
            all of them needs it where several host the same gRPC service.
        deadline_s: Seconds that a unary call may take unless its caller gives a `timeout`; streams have no deadline
            unless one is given.
        max_message_bytes: Largest message that is sent or taken.
        retry: Try unary calls again while the service is UNAVAILABLE, for about 1.5 s.
        patience_s: Go on trying unary calls for so many seconds, where somebody starts a service again that ended; for
            five at most where TLS fails.

    Returns:
        A channel whose calls raise MeshErrors. Thread-safe; close it, or use it as a context manager.

    Raises:
        InvalidArgument: TOKEN_WITHOUT_TLS; a token is never sent in the clear.
        FailedPrecondition: BAD_IDENTITY.
    """
    if token_file and not identity:
        message = "a token goes over TLS only; name the folder with the mesh's ca.pem too"
        raise InvalidArgument("TOKEN_WITHOUT_TLS", message, field="identity")
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.enable_http_proxy", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # Channels to one address must not share a connection: one that backs off would hold up a new one.
        ("grpc.use_local_subchannel_pool", 1),
        *KEEPALIVE,
    ]
    once = [*options, ("grpc.enable_retries", 0)]
    retrying = [*options, ("grpc.enable_retries", 1), ("grpc.service_config", json.dumps(_RETRIES))]
    shown = Identity(identity) if identity else None
    return _Channel(
        _Connection(address, retrying if retry else once, shown),
        _Connection(address, once, shown),
        _Calls(
            address,
            shown,
            deadline_s,
            patience_s,
            ((SERVICE_HEADER, service),) if service else (),
            _Token(token_file) if token_file else None,
        ),
    )


class _Connection:
    """gRPC's channel to a server; another one once certificates were renewed. Calls under way finish on the old one."""

    def __init__(self, address: str, options: list[tuple[str, Any]], identity: Identity | None) -> None:
        self._address = address
        self._options = options
        self._identity = identity
        self._lock = threading.Lock()
        self._versions = self._seen = identity.versions() if identity else []
        self._next_look_s = time.monotonic() + _LOOK_S
        self._channel = self._open()

    def channel(self) -> grpc.Channel:
        """The channel for a call that begins now."""
        if self._identity and time.monotonic() > self._next_look_s:
            self._look(self._identity)
        return self._channel

    def close(self) -> None:
        self._channel.close()

    def _look(self, identity: Identity) -> None:
        with self._lock:
            versions = identity.versions()
            # Only when all are there and have stayed for a while: a certificate is of no use without its key.
            whole = all(now or not before for before, now in zip(self._versions, versions, strict=True))
            if whole and versions == self._seen != self._versions:
                with contextlib.suppress(FailedPrecondition):
                    self._channel, self._versions = self._open(), versions
            self._seen = versions
            self._next_look_s = time.monotonic() + _LOOK_S

    def _open(self) -> grpc.Channel:
        if self._identity:
            return grpc.secure_channel(self._address, self._identity.channel_credentials(), self._options)
        return grpc.insecure_channel(self._address, self._options)


class _Token:
    """The token in a file, which whoever renews it replaces."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._next_look_s = 0.0

    def metadata(self) -> tuple[tuple[str, str], ...]:
        now = time.monotonic()
        if now > self._next_look_s:
            self._metadata = (("authorization", f"Bearer {read_token(self._path)}"),)
            self._next_look_s = now + _LOOK_S
        return self._metadata


@dataclass(frozen=True)
class _Calls:
    """What the calls of a channel have in common."""

    address: str
    identity: Identity | None
    deadline_s: float
    patience_s: float
    metadata: tuple[tuple[str, str], ...]
    token: _Token | None

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """A call's own options, with the service it means, the trace that it is a part of and the user's token."""
        span = current()
        trace = ((TRACEPARENT, span.traceparent),) if span else ()
        ours = (*self.metadata, *trace, *(self.token.metadata() if self.token else ()))
        return {**options, "metadata": (*(options.get("metadata") or ()), *ours)} if ours else options


def from_status(error: grpc.RpcError, *, address: str = "", identity: Identity | None = None) -> MeshError:
    """Turns the status of a failed call back into the error that the server raised.

    Args:
        error: A failed call.
        address: Where the server is, for the message if nothing answers there.
        identity: What was shown to it; None means no TLS.
    """
    code = error.code().name
    reason, message = _OWN_REASONS.get(code, code), error.details() or code
    if code == "RESOURCE_EXHAUSTED" and "larger than max" in message:
        # gRPC's message gives the sizes of the message and of the limit.
        reason, message = "MESSAGE_TOO_LARGE", f"{message}; send or request less in one message"
    violations: list[Violation] = []
    retry_delay_s = None
    try:
        status = rpc_status.from_call(cast(grpc.Call, error))
    except (ValueError, DecodeError):
        status = None  # details that do not belong to the status: something in between has answered
    for detail in status.details if status else ():
        info, request, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(request):
            violations = [Violation(one.field, one.description) for one in request.field_violations]
        elif detail.Unpack(retry):
            delay: Duration = retry.retry_delay
            retry_delay_s = delay.seconds + delay.nanos / 1e9
    if code == message == "CANCELLED":
        # Nobody says so but a server that stops, of calls that it has not looked at, or can wait for no longer.
        return Unavailable("SERVER_STOPPING", "the service stopped meanwhile; call again", retry_delay_s=1)
    if reason == "SERVICE_UNREACHABLE" and address and not status:
        if cause := why_tls_failed(message, address, identity):
            return Unavailable("TLS_FAILED", f"no TLS with {address}: {cause}")
        message = f"nothing answers at {address}; start the mesh with `deepseek up`"
    return ERROR_CLASSES.get(code, Internal)(reason, message, violations=violations, retry_delay_s=retry_delay_s)


class _CapturingIterator:
    """Passes requests on and keeps what the caller's iterator raised, which gRPC would only log."""

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


class _Call:
    """A call under way that raises MeshErrors, as a stream of responses or as a future; all else is gRPC's."""

    def __init__(self, call: Any, calls: _Calls, requests: "_CapturingIterator | None" = None) -> None:
        self._call = call
        self._calls = calls
        self._requests = requests

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise _cause(error, self._calls, self._requests) from None

    def result(self, timeout: float | None = None) -> Any:
        try:
            return self._call.result(timeout)
        except grpc.RpcError as error:
            raise _cause(error, self._calls, self._requests) from None

    def exception(self, timeout: float | None = None) -> Exception | None:
        error = self._call.exception(timeout)
        return _cause(error, self._calls, self._requests) if isinstance(error, grpc.RpcError) else error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


class _Method:
    """A method of a service, called as gRPC's are.

    Args:
        connection: What to call it on.
        bind: Makes the method of a channel.
        calls: What all calls have in common.
        streams_requests: Whether it takes a stream.
        unary: Whether it takes and gives one message.
    """

    def __init__(
        self,
        connection: _Connection,
        bind: Callable[[grpc.Channel], Any],
        calls: _Calls,
        *,
        streams_requests: bool = False,
        unary: bool = False,
    ) -> None:
        self._connection = connection
        self._bind = bind
        channel = connection.channel()
        self._bound = channel, bind(channel)
        self._calls = calls
        self._streams_requests = streams_requests
        self._deadline_s = calls.deadline_s if unary else None
        self._patience_s = calls.patience_s if unary else 0.0

    def _method(self) -> Any:
        channel, method = self._bound
        if (current := self._connection.channel()) is not channel:
            method = self._bind(current)
            self._bound = current, method
        return method

    def __call__(self, request: Any, timeout: float | None = None, **options: Any) -> Any:
        return self.with_call(request, timeout, **options)[0]

    def with_call(self, request: Any, timeout: float | None = None, **options: Any) -> tuple[Any, Any]:
        requests, options = self._captured(request), self._calls.options(options)
        begin_s = hopeful_s = time.monotonic()
        while True:
            try:
                response, call = self._method().with_call(requests or request, timeout=self._limit(timeout), **options)
            except grpc.RpcError as error:
                cause, now_s = _cause(error, self._calls, requests), time.monotonic()
                if getattr(cause, "reason", "") != "TLS_FAILED":
                    hopeful_s = now_s
                impatient = now_s >= begin_s + self._patience_s or now_s >= hopeful_s + _RENEWAL_S
                if not isinstance(cause, Unavailable) or impatient:
                    raise cause from None
                time.sleep(_PAUSE_S)
            else:
                return response, call

    def future(self, request: Any, timeout: float | None = None, **options: Any) -> _Call:
        requests, options = self._captured(request), self._calls.options(options)
        call = self._method().future(requests or request, timeout=self._limit(timeout), **options)
        return _Call(call, self._calls, requests)

    def stream(self, request: Any, timeout: float | None = None, **options: Any) -> _Call:
        requests, options = self._captured(request), self._calls.options(options)
        call = self._method()(requests or request, timeout=self._limit(timeout), **options)
        return _Call(call, self._calls, requests)

    def _captured(self, request: Any) -> "_CapturingIterator | None":
        return _CapturingIterator(request) if self._streams_requests else None

    def _limit(self, timeout: float | None) -> float | None:
        return deadline.within(self._deadline_s if timeout is None else timeout)


def _cause(error: grpc.RpcError, calls: _Calls, requests: "_CapturingIterator | None") -> Exception:
    """Why a call failed: its caller's own iterator, or what the server said."""
    if requests and requests.error:
        return requests.error
    return from_status(error, address=calls.address, identity=calls.identity)


class _Channel(grpc.Channel):
    """Wraps every method once, when a stub is made.

    gRPC's own client interceptors look the method up anew in each call, which costs more than all else here, and on a
    closed channel that look-up crashes the process (grpcio 1.85).

    Args:
        connection: For unary calls.
        streaming: For calls with a stream; it connects only if there are any.
        calls: What all calls have in common.
    """

    def __init__(self, connection: _Connection, streaming: _Connection, calls: _Calls) -> None:
        self._connection = connection
        self._streaming = streaming
        self._calls = calls
        self._closed = False

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        return self._method(self._connection, "unary_unary", args, options, unary=True)

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        return self._method(self._streaming, "stream_unary", args, options, streams_requests=True)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        return self._method(self._streaming, "unary_stream", args, options).stream

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        return self._method(self._streaming, "stream_stream", args, options, streams_requests=True).stream

    def subscribe(self, callback: Any, try_to_connect: Any = False) -> None:
        self._connection.channel().subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        self._connection.channel().unsubscribe(callback)

    def close(self) -> None:
        self._closed = True
        self._connection.close()
        self._streaming.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _method(
        self, connection: _Connection, kind: str, args: tuple[Any, ...], options: dict[str, Any], **how: bool
    ) -> _Method:
        if self._closed:
            raise ValueError("the channel is closed")
        return _Method(connection, lambda channel: getattr(channel, kind)(*args, **options), self._calls, **how)
