"""The channel on which clients create stubs, and the function that opens it."""

import json
from pathlib import Path
from typing import Any, Self

import grpc

from common.auth.identity import SERVICE_HEADER, Identity
from common.channel.calls import CallSettings, Method
from common.channel.connection import Connection, TokenFile
from common.errors import InvalidArgument
from common.keepalive import KEEPALIVE

MAX_MESSAGE_BYTES = 64 << 20
"""Default maximum size of a message, sent or received, in bytes."""

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
    """Opens a channel, which connects on first use.

    Args:
        address: `host:port`.
        identity: Folder with the certificates to trust and to present (`common.auth.Identity`), checked for renewal
            every second; None means no TLS.
        token_file: File with a user's token, which is sent with every call; checked for renewal every second.
        service: Name of the service, e.g. `trainer`, which is sent with every call. The edge in front of all services
            routes calls by this name, because several services host the same gRPC service.
        deadline_s: Default deadline of unary calls, in seconds. Streams have no default deadline.
        max_message_bytes: Maximum size of a message, sent or received.
        retry: Whether gRPC retries unary calls, for about 1.5 s, while the service is unavailable.
        patience_s: Seconds, counted from the start of a unary call, during which this package keeps retrying the call
            after gRPC's own retries have failed, e.g. while a supervisor restarts the service. If TLS keeps failing,
            the retries end after 5 s.

    Returns:
        A thread-safe channel whose calls raise MeshErrors. Close the channel, or use it as a context manager.

    Raises:
        InvalidArgument: TOKEN_WITHOUT_TLS, because a token is never sent unencrypted.
        FailedPrecondition: BAD_IDENTITY.
    """
    if token_file and not identity:
        message = "a token is sent only over TLS; pass an identity folder that contains the mesh's ca.pem as well"
        raise InvalidArgument("TOKEN_WITHOUT_TLS", message, field="identity")
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.enable_http_proxy", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # Channels to the same address must not share a connection: if one is in backoff, a new channel would wait too.
        ("grpc.use_local_subchannel_pool", 1),
        *KEEPALIVE,
    ]
    without_retries = [*options, ("grpc.enable_retries", 0)]
    with_retries = [*options, ("grpc.enable_retries", 1), ("grpc.service_config", json.dumps(_RETRIES))]
    certificates = Identity(identity) if identity else None
    return Channel(
        Connection(address, with_retries if retry else without_retries, certificates),
        Connection(address, without_retries, certificates),
        CallSettings(
            address,
            certificates,
            deadline_s,
            patience_s,
            ((SERVICE_HEADER, service),) if service else (),
            TokenFile(token_file) if token_file else None,
        ),
    )


class Channel(grpc.Channel):
    """A channel that wraps every method once, when a stub is created.

    The wrappers replace gRPC's client interceptors, with which every call would look up its method. The lookup costs
    more than everything else in this package, and it crashes the process if the channel is closed (grpcio 1.85).

    Args:
        connection: Connection for unary calls.
        streaming: Connection for streaming calls; it connects at the first such call.
        settings: Settings that all calls share.
    """

    def __init__(self, connection: Connection, streaming: Connection, settings: CallSettings) -> None:
        self._connection = connection
        self._streaming = streaming
        self._settings = settings
        self._closed = False

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        """See `grpc.Channel.unary_unary`."""
        return self._method(self._connection, "unary_unary", args, options, unary=True)

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        """See `grpc.Channel.stream_unary`."""
        return self._method(self._streaming, "stream_unary", args, options, streams_requests=True)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        """See `grpc.Channel.unary_stream`."""
        return self._method(self._streaming, "unary_stream", args, options).stream

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        """See `grpc.Channel.stream_stream`."""
        return self._method(self._streaming, "stream_stream", args, options, streams_requests=True).stream

    def subscribe(self, callback: Any, try_to_connect: Any = False) -> None:
        """See `grpc.Channel.subscribe`."""
        self._connection.channel().subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        """See `grpc.Channel.unsubscribe`."""
        self._connection.channel().unsubscribe(callback)

    def close(self) -> None:
        """Closes both connections."""
        self._closed = True
        self._connection.close()
        self._streaming.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _method(
        self, connection: Connection, kind: str, args: tuple[Any, ...], options: dict[str, Any], **how: bool
    ) -> Method:
        if self._closed:
            raise ValueError("the channel is closed")
        return Method(connection, lambda channel: getattr(channel, kind)(*args, **options), self._settings, **how)
