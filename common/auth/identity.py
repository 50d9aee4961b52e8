"""The folder that proves who a process is, and TLS made of it.

It holds `ca.pem` (whom to trust), `cert.pem` and `key.pem` (who we are; users of the edge have none), and for
a server `jwks.json` (whose tokens count). `deepseek certs` makes them; so can any CA, as long as the URI SAN of each
certificate says what it is for.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from common.errors import FailedPrecondition

TRUST_DOMAIN = "spiffe://deepseek-mesh/"
SERVICE_URI = f"{TRUST_DOMAIN}service/"
"""Before the name of a service in the URI SAN of its certificate."""

EDGE_URI = f"{TRUST_DOMAIN}edge"
CLI_URI = f"{TRUST_DOMAIN}cli"
USER_URIS = frozenset({EDGE_URI, CLI_URI})
"""Who speaks for users, by their tokens."""

TENANT_HEADER = "deepseek-tenant"
"""Metadata by which a service names the tenant that it acts for."""

SERVICE_HEADER = "deepseek-service"
"""Metadata by which a client tells the edge which service it means (deploy/envoy/envoy.yaml)."""


def on_behalf_of(tenant: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a call that a service makes for a tenant."""
    return ((TENANT_HEADER, tenant),)


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        FailedPrecondition: BAD_TOKEN_FILE if it cannot be read.
    """
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        message = f"{path} holds no token; `deepseek token` makes one"
        raise FailedPrecondition("BAD_TOKEN_FILE", message, field="token_file") from error


def replace_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replaces a file in one step; while it is written nobody else can read it.

    Args:
        path: Where; its folder exists.
        content: What.
        mode: Its permissions.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@dataclass(frozen=True)
class Identity:
    """A folder with certificates.

    Attributes:
        folder: Where they lie.
    """

    folder: Path

    @property
    def jwks_file(self) -> Path:
        """The keys whose tokens count."""
        return self.folder / "jwks.json"

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """What a client shows and trusts.

        Raises:
            FailedPrecondition: BAD_IDENTITY if a file cannot be read.
        """
        pair = self._pair() if (self.folder / "cert.pem").exists() else (None, None)
        return grpc.ssl_channel_credentials(self._read("ca.pem"), *pair)

    def server_credentials(self) -> grpc.ServerCredentials:
        """What a server shows and trusts; clients need a certificate. Renewed files count from the next connection on.

        Raises:
            FailedPrecondition: BAD_IDENTITY if a file cannot be read.
        """
        return grpc.dynamic_ssl_server_credentials(
            self._server_configuration(),
            self._renewed(),  # type: ignore[arg-type]  # None, which the stubs forget, means no change
            require_client_authentication=True,
        )

    def versions(self) -> list[int]:
        """When each certificate and the key was last replaced; 0 for one that is not there."""
        return [_mtime_ns(self.folder / name) for name in ("ca.pem", "cert.pem", "key.pem")]

    def _renewed(self) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
        seen = self.versions()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal seen
            try:
                versions = self.versions()
                if versions == seen:
                    return None
                configuration = self._server_configuration()
            except FailedPrecondition:
                return None  # half renewed; the old ones go on
            seen = versions
            return configuration

        return fetch

    def _server_configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([self._pair()], self._read("ca.pem"))

    def _pair(self) -> tuple[bytes, bytes]:
        return self._read("key.pem"), self._read("cert.pem")

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            message = f"{self.folder / name}: {error.strerror}; `deepseek certs init` makes certificates"
            raise FailedPrecondition("BAD_IDENTITY", message, field="identity") from error


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
