"""Reloads certificates and tokens when their files change, so that renewals take effect without a restart."""

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import grpc

from common.auth.identity import Identity, read_token
from common.errors import FailedPrecondition

RELOAD_INTERVAL_S = 1.0
"""Interval at which certificates and tokens are checked for renewal."""


class Connection:
    """A connection to a server. Its gRPC channel is replaced when the certificates are renewed. Thread-safe.

    Running calls finish on the old channel.

    Args:
        address: `host:port`.
        options: Options of the gRPC channel.
        identity: Certificates to trust and to present; None means no TLS.

    Raises:
        FailedPrecondition: BAD_IDENTITY.
    """

    def __init__(self, address: str, options: list[tuple[str, Any]], identity: Identity | None) -> None:
        self._address = address
        self._options = options
        self._identity = identity
        self._lock = threading.Lock()
        self._versions = self._seen = identity.versions() if identity else []
        self._next_reload_s = time.monotonic() + RELOAD_INTERVAL_S
        self._channel = self._open()

    def channel(self) -> grpc.Channel:
        """Returns the channel for a call that starts now."""
        if self._identity and time.monotonic() > self._next_reload_s:
            self._reload_if_renewed(self._identity)
        return self._channel

    def close(self) -> None:
        """Closes the current channel."""
        self._channel.close()

    def _reload_if_renewed(self, identity: Identity) -> None:
        with self._lock:
            versions = identity.versions()
            # Reloads only once all files exist and have stopped changing: a certificate is useless without its key.
            is_complete = all(now or not before for before, now in zip(self._versions, versions, strict=True))
            if is_complete and versions == self._seen != self._versions:
                with contextlib.suppress(FailedPrecondition):
                    self._channel, self._versions = self._open(), versions
            self._seen = versions
            self._next_reload_s = time.monotonic() + RELOAD_INTERVAL_S

    def _open(self) -> grpc.Channel:
        if self._identity:
            return grpc.secure_channel(self._address, self._identity.channel_credentials(), self._options)
        return grpc.insecure_channel(self._address, self._options)


class TokenFile:
    """A user's token, read from a file that may be replaced at any time.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._next_reload_s = 0.0

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Returns the metadata that contains the token.

        Raises:
            FailedPrecondition: BAD_TOKEN_FILE.
        """
        now = time.monotonic()
        if now > self._next_reload_s:
            self._metadata = (("authorization", f"Bearer {read_token(self._path)}"),)
            self._next_reload_s = now + RELOAD_INTERVAL_S
        return self._metadata
