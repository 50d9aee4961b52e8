"""The folder that proves who a process is, and TLS made of it.

It holds `ca.pem` (whom to trust), `cert.pem` and `key.pem` (who we are; users of the edge have none), and for
a server `jwks.json` (whose tokens count). `deepseek certs` makes them; so can any CA, as long as the URI SAN of each
certificate says what it is for.
"""

import datetime
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from common.errors import FailedPrecondition
from common.text_files import NotUtf8, read_secret, read_text

TRUST_DOMAIN = "spiffe://deepseek-mesh/"
SERVICE_URI = f"{TRUST_DOMAIN}service/"
"""Before the name of a service in the URI SAN of its certificate."""

EDGE_URI = f"{TRUST_DOMAIN}edge"
CLI_URI = f"{TRUST_DOMAIN}cli"
USER_URIS = frozenset({EDGE_URI, CLI_URI})
"""Who speaks for users, by their tokens."""

OLD_DAYS = 30
"""Days before it expires from which on a certificate is worth a warning, at start and once a day."""

LEEWAY_S = 30.0
"""Default of the accepted clock skew between two machines, seconds; also used at the edge (`deploy/envoy`)."""

TENANT_HEADER = "deepseek-tenant"
"""Metadata by which a service names the tenant that it acts for."""

SERVICE_HEADER = "deepseek-service"
"""Metadata by which a client tells the edge which service it means (deploy/envoy/envoy.yaml)."""

_DAY_S = 24 * 3600
_logger = logging.getLogger(__name__)


def on_behalf_of(tenant: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a call that a service makes for a tenant."""
    return ((TENANT_HEADER, tenant),)


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        FailedPrecondition: BAD_TOKEN_FILE if it cannot be read.
    """
    try:
        token = read_secret(path)
    except NotUtf8 as error:
        raise FailedPrecondition("BAD_TOKEN_FILE", f"the token in {path} {error}", field="token_file") from error
    except OSError:
        token = ""
    # The metadata of a call accepts nothing else.
    if not (token and token.isascii() and token.isprintable()):
        message = f"{path} holds no token; `deepseek token` makes one"
        raise FailedPrecondition("BAD_TOKEN_FILE", message, field="token_file")
    return token


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
            FailedPrecondition: BAD_IDENTITY if a file cannot be read, CERTIFICATE_EXPIRED.
        """
        self._refuse_expired()
        return grpc.dynamic_ssl_server_credentials(
            self._server_configuration(),
            self._renewed(),  # type: ignore[arg-type]  # None, which the stubs forget, means no change
            require_client_authentication=True,
        )

    def versions(self) -> list[int]:
        """When each certificate and the key was last replaced; 0 for one that is not there."""
        return [_mtime_ns(self.folder / name) for name in ("ca.pem", "cert.pem", "key.pem")]

    def expires(self) -> datetime.datetime | None:
        """When the certificate expires; None if there is none.

        Raises:
            FailedPrecondition: BAD_IDENTITY if it cannot be read.
        """
        validity = self.validity()
        return validity[1] if validity else None

    def validity(self) -> tuple[datetime.datetime, datetime.datetime] | None:
        """From when until when the certificate is valid; None if there is none.

        Raises:
            FailedPrecondition: BAD_IDENTITY if it cannot be read.
        """
        if not (path := self.folder / "cert.pem").exists():
            return None
        from cryptography import x509  # who only calls should not wait for it

        try:
            certificate = x509.load_pem_x509_certificate(self._read(path.name))
        except ValueError as error:
            message = f"{path} holds no certificate; `deepseek certs renew` makes it anew"
            raise FailedPrecondition("BAD_IDENTITY", message, field="identity") from error
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc

    def _renewed(self) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
        seen = self.versions()
        next_warning_s = self._warn_if_old()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal seen, next_warning_s
            configuration = None
            try:
                versions = self.versions()
                if versions != seen:
                    configuration = self._server_configuration()
                if configuration or time.monotonic() > next_warning_s:
                    next_warning_s = self._warn_if_old()
            except FailedPrecondition:
                return None  # half renewed; the old ones go on
            seen = versions
            return configuration

        return fetch

    def _warn_if_old(self) -> float:
        """Warns of a certificate that expires soon or is not valid yet; returns when to check again (monotonic)."""
        if validity := self.validity():
            (begins, expires), now = validity, _now()
            if expires - now < datetime.timedelta(days=OLD_DAYS):
                message = "the certificate in %s expires on %s; run `deepseek certs renew`"
                _logger.warning(message, self.folder, expires.date())
            if now < begins:
                # The server starts anyway, since the clock may be corrected while it runs.
                message = "the certificate in %s is valid from %s; the clock of this machine says %s: synchronize it"
                _logger.warning(message, self.folder, shown_time(begins), shown_time(now))
        return time.monotonic() + _DAY_S

    def _refuse_expired(self) -> None:
        if (expires := self.expires()) and expires <= (now := _now()):
            message = (
                f"the certificate in {self.folder} expired at {shown_time(expires)}; "
                f"the clock of this machine says {shown_time(now)}. Run `deepseek certs renew`"
            )
            raise FailedPrecondition("CERTIFICATE_EXPIRED", message, field="identity")

    def _server_configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([self._pair()], self._read("ca.pem"))

    def _pair(self) -> tuple[bytes, bytes]:
        return self._read("key.pem"), self._read("cert.pem")

    def _read(self, name: str) -> bytes:
        try:
            # gRPC does not read PEM after a byte order mark, or with lines that end with a lone CR.
            return read_text(self.folder / name).encode()
        except NotUtf8 as error:
            raise FailedPrecondition("BAD_IDENTITY", f"{self.folder / name} {error}", field="identity") from error
        except OSError as error:
            message = f"{self.folder / name}: {error.strerror}; `deepseek certs init` makes certificates"
            raise FailedPrecondition("BAD_IDENTITY", message, field="identity") from error


def shown_time(moment: datetime.datetime) -> str:
    """A time in UTC as error messages show it."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
