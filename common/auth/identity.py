"""The identity of a process: a folder of certificates, and the TLS credentials made from them.

The folder contains `ca.pem` (the CA to trust), `cert.pem` and `key.pem` (the process's own certificate and key, which
clients do not need if they connect through the edge) and, for a server, `jwks.json` (the keys that verify tokens).
`deepseek certs` creates these files. Another CA may issue the certificates, if it sets their URI SANs to the values
defined below.
"""

import datetime
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from common.errors import FailedPrecondition
from common.text_files import NotUtf8, read_secret, read_text

TRUST_DOMAIN = "spiffe://deepseek-mesh/"
SERVICE_URI = f"{TRUST_DOMAIN}service/"
"""Prefix of the URI SAN in a service's certificate. The name of the service follows."""

EDGE_URI = f"{TRUST_DOMAIN}edge"
CLI_URI = f"{TRUST_DOMAIN}cli"
USER_URIS = frozenset({EDGE_URI, CLI_URI})
"""URI SANs of clients that act for users and send users' tokens."""

EXPIRY_WARNING_DAYS = 30
"""A server warns, at start and then once per day, if its certificate expires in fewer days than this."""

LEEWAY_S = 30.0
"""Default limit on the clock skew between two machines, in seconds. The edge (`deploy/envoy`) uses the same value."""

TENANT_HEADER = "deepseek-tenant"
"""Metadata key in which a service names the tenant for which it acts."""

SERVICE_HEADER = "deepseek-service"
"""Metadata key in which a client names the service to which the edge routes its call (deploy/envoy/envoy.yaml)."""

_DAY_S = 24 * 3600
_logger = logging.getLogger(__name__)


def on_behalf_of(tenant: str) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of a call that a service makes for a tenant."""
    return ((TENANT_HEADER, tenant),)


def read_token(path: Path) -> str:
    """Returns the token in a file.

    Raises:
        FailedPrecondition: BAD_TOKEN_FILE if the file cannot be read or contains no token.
    """
    try:
        token = read_secret(path)
    except NotUtf8 as error:
        raise FailedPrecondition("BAD_TOKEN_FILE", f"the token file {path} {error}", field="token_file") from error
    except OSError:
        token = ""
    # The metadata of a call allows only printable ASCII characters.
    if not (token and token.isascii() and token.isprintable()):
        message = f"{path} contains no token; create one with `deepseek token`"
        raise FailedPrecondition("BAD_TOKEN_FILE", message, field="token_file")
    return token


@dataclass(frozen=True)
class Identity:
    """The identity of a process, read from a folder of certificates."""

    folder: Path

    @property
    def jwks_file(self) -> Path:
        """File with the public keys that verify tokens."""
        return self.folder / "jwks.json"

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Returns the credentials of a client.

        Raises:
            FailedPrecondition: BAD_IDENTITY if a file cannot be read.
        """
        pair = self._pair() if (self.folder / "cert.pem").exists() else (None, None)
        return grpc.ssl_channel_credentials(self._read("ca.pem"), *pair)

    def server_credentials(self) -> grpc.ServerCredentials:
        """Returns a server's credentials, which require client certificates. New connections use renewed files.

        Raises:
            FailedPrecondition: BAD_IDENTITY if a file cannot be read; CERTIFICATE_EXPIRED.
        """
        self._refuse_expired()
        return grpc.dynamic_ssl_server_credentials(
            self._server_configuration(),
            self._renewed(),  # type: ignore[arg-type]  # returns None for no change, which the stubs lack
            require_client_authentication=True,
        )

    def versions(self) -> list[int]:
        """Returns the modification times of the CA, certificate and key files in nanoseconds; 0 for a missing file."""
        return [_mtime_ns(self.folder / name) for name in ("ca.pem", "cert.pem", "key.pem")]

    def expires(self) -> datetime.datetime | None:
        """Returns the expiry of the certificate; None if there is no certificate.

        Raises:
            FailedPrecondition: BAD_IDENTITY if the certificate cannot be read.
        """
        validity = self.validity()
        return validity[1] if validity else None

    def validity(self) -> tuple[datetime.datetime, datetime.datetime] | None:
        """Returns the start and end of the certificate's validity; None if there is no certificate.

        Raises:
            FailedPrecondition: BAD_IDENTITY if the certificate cannot be read.
        """
        if not (path := self.folder / "cert.pem").exists():
            return None
        from cryptography import x509  # slow to import, and clients rarely need it

        try:
            certificate = x509.load_pem_x509_certificate(self._read(path.name))
        except ValueError as error:
            message = f"{path} contains no certificate; create one with `deepseek certs renew`"
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
                return None  # some files are not renewed yet; keep the old ones
            seen = versions
            return configuration

        return fetch

    def _warn_if_old(self) -> float:
        """Logs a warning if the certificate expires soon or is not valid yet; returns the time of the next check."""
        if validity := self.validity():
            (begins, expires), now = validity, _now()
            if expires - now < datetime.timedelta(days=EXPIRY_WARNING_DAYS):
                message = "the certificate in %s expires on %s; run `deepseek certs renew`"
                _logger.warning(message, self.folder, expires.date())
            if now < begins:
                # The server starts anyway, since the clock may be corrected while it runs.
                message = (
                    "the certificate in %s is not valid before %s; the clock of this machine says %s. "
                    "Synchronize the clock"
                )
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
            # gRPC cannot read PEM that starts with a byte order mark or has lines that end with a lone CR.
            return read_text(self.folder / name).encode()
        except NotUtf8 as error:
            raise FailedPrecondition("BAD_IDENTITY", f"{self.folder / name} {error}", field="identity") from error
        except OSError as error:
            message = f"{self.folder / name}: {error.strerror}; create certificates with `deepseek certs init`"
            raise FailedPrecondition("BAD_IDENTITY", message, field="identity") from error


def shown_time(moment: datetime.datetime) -> str:
    """Returns a UTC time in the format used in error messages."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
