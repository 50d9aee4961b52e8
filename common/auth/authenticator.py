"""Authentication: determines the caller from the connection and the metadata of a call.

On loopback without TLS, all clients count as the same caller. With TLS, every client needs a certificate issued by the
mesh's CA, and the certificate's URI SAN names the kind of client. A *service* acts for the tenant that its metadata
names; each service declares which other services may call it. The *edge* and the *command line* act for users and must
send the user's token. If their metadata also names a tenant, the call is rejected as a forgery.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

import grpc

from common.auth.caller import LOCAL, SERVICE_PREFIX, Caller, Role
from common.auth.identity import SERVICE_URI, TENANT_HEADER, USER_URIS
from common.errors import InvalidArgument, PermissionDenied, Unauthenticated
from common.names import check_id

_SAN = "x509_subject_alternative_name"
_BEARER = "Bearer "


class Tokens(Protocol):
    """The interface of `TokenVerifier`, so that a server on loopback need not import the class itself."""

    def verify(self, token: str) -> Caller:
        """Returns the caller to whom the token was issued."""


class Authenticator(ABC):
    """Authenticates calls. Thread-safe."""

    @abstractmethod
    def authenticate(self, context: grpc.ServicerContext) -> Caller:
        """Returns the caller of a call.

        Raises:
            Unauthenticated: The credentials are missing or not valid.
            PermissionDenied: The caller claims an identity that is not its own, or is a service that may not call this
                service.
        """


class Loopback(Authenticator):
    """Treats every caller as the local user, with the tenant `default`."""

    def authenticate(self, context: grpc.ServicerContext) -> Caller:
        """See `Authenticator`."""
        return LOCAL


class MutualTls(Authenticator):
    """Authenticates clients by their certificates, and the users of the edge and the command line by their tokens.

    Args:
        tokens: Verifier of users' tokens.
        services: Roles of the services that may call this one, keyed by service name.
    """

    def __init__(self, tokens: Tokens, services: Mapping[str, Role]) -> None:
        self._tokens = tokens
        self._services = services

    def authenticate(self, context: grpc.ServicerContext) -> Caller:
        """See `Authenticator`."""
        # Only subject alternative names identify a client; the common name is ignored.
        names = context.peer_identities() if context.peer_identity_key() == _SAN else None
        uri = _uri(tuple(names or ()))
        metadata = {
            key: value for key, value in context.invocation_metadata() if key in (TENANT_HEADER, "authorization")
        }
        if uri.startswith(SERVICE_URI):
            return self._service(uri.removeprefix(SERVICE_URI), metadata.get(TENANT_HEADER))
        if uri not in USER_URIS:
            message = "the client certificate names no client of this mesh; create certificates with `deepseek certs`"
            raise Unauthenticated("UNKNOWN_CERTIFICATE", message)
        if TENANT_HEADER in metadata:
            message = f"only services may send {TENANT_HEADER}; the tenant of a user is in the token"
            raise PermissionDenied("FORGED_IDENTITY", message, field=TENANT_HEADER)
        authorization = metadata.get("authorization", "")
        if not isinstance(authorization, str) or not authorization.startswith(_BEARER):
            message = "the metadata `authorization: Bearer <token>` is missing; create a token with `deepseek token`"
            raise Unauthenticated("TOKEN_MISSING", message, field="authorization")
        return self._tokens.verify(authorization.removeprefix(_BEARER))

    def _service(self, name: str, tenant: str | bytes | None) -> Caller:
        role = self._services.get(name)
        if role is None:
            raise PermissionDenied("SERVICE_NOT_ALLOWED", f"the service {name!r} may not call this service")
        if not isinstance(tenant, str):
            message = f"the metadata {TENANT_HEADER} is missing; a service must name the tenant that it acts for"
            raise Unauthenticated("TENANT_MISSING", message, field=TENANT_HEADER)
        try:
            return Caller(check_id(tenant, field=TENANT_HEADER), SERVICE_PREFIX + name, role)
        except InvalidArgument as error:
            raise Unauthenticated(error.reason, error.message, field=error.field) from None


@lru_cache(maxsize=1000)
def _uri(names: tuple[bytes, ...]) -> str:
    """Returns the URI among a certificate's alternative names; empty unless there is exactly one."""
    uris = [name.decode(errors="replace") for name in names if b"://" in name]
    return uris[0] if len(uris) == 1 else ""
