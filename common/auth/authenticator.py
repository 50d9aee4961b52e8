"""From a connection and its metadata to a caller.

Two ways in. On loopback without TLS everyone who can connect is the same caller. With TLS a client certificate of the
mesh's CA is required, whose URI SAN says what stands behind it:

- a *service* acts for the tenant that it names; which services may call is decided by the one that is called;
- the *edge* and the *command line* speak for users, and need a token; a tenant that they name beside it is a forgery,
  and the call is refused.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache

import grpc

from common.auth.caller import LOCAL, SERVICE_PREFIX, Caller, Role
from common.auth.identity import SERVICE_URI, TENANT_HEADER, USER_URIS
from common.auth.tokens import TokenVerifier
from common.errors import InvalidArgument, PermissionDenied, Unauthenticated
from common.names import check_id

_SAN = "x509_subject_alternative_name"
_BEARER = "Bearer "


class Authenticator(ABC):
    """Tells who makes a call. Thread-safe."""

    @abstractmethod
    def authenticate(self, context: grpc.ServicerContext) -> Caller:
        """Returns the caller.

        Raises:
            Unauthenticated: It is not known who calls.
            PermissionDenied: They pretend to be somebody else, or are a service that has no business here.
        """


class Loopback(Authenticator):
    """Everyone is the local user, of the tenant `default`."""

    def authenticate(self, context: grpc.ServicerContext) -> Caller:
        """See `Authenticator`."""
        return LOCAL


class MutualTls(Authenticator):
    """Certificates, and behind those of the edge and the command line tokens.

    Args:
        tokens: Verifies tokens.
        services: The services that may call, and as what.
    """

    def __init__(self, tokens: TokenVerifier, services: Mapping[str, Role]) -> None:
        self._tokens = tokens
        self._services = services

    def authenticate(self, context: grpc.ServicerContext) -> Caller:
        """See `Authenticator`."""
        # Those of the certificate's alternative names, if it has any: a common name proves nothing.
        names = context.peer_identities() if context.peer_identity_key() == _SAN else None
        uri = _uri(tuple(names or ()))
        metadata = {
            key: value for key, value in context.invocation_metadata() if key in (TENANT_HEADER, "authorization")
        }
        if uri.startswith(SERVICE_URI):
            return self._service(uri.removeprefix(SERVICE_URI), metadata.get(TENANT_HEADER))
        if uri not in USER_URIS:
            message = "the client certificate names nobody of this mesh; `deepseek certs` makes those that do"
            raise Unauthenticated("UNKNOWN_CERTIFICATE", message)
        if TENANT_HEADER in metadata:
            message = f"only services may send {TENANT_HEADER}; the tenant of a user stands in the token"
            raise PermissionDenied("FORGED_IDENTITY", message, field=TENANT_HEADER)
        authorization = metadata.get("authorization", "")
        if not isinstance(authorization, str) or not authorization.startswith(_BEARER):
            message = "the call needs `authorization: Bearer <token>`; `deepseek token` makes one"
            raise Unauthenticated("TOKEN_MISSING", message, field="authorization")
        return self._tokens.verify(authorization.removeprefix(_BEARER))

    def _service(self, name: str, tenant: str | bytes | None) -> Caller:
        role = self._services.get(name)
        if role is None:
            raise PermissionDenied("SERVICE_NOT_ALLOWED", f"the service {name!r} has no business here")
        if not isinstance(tenant, str):
            message = f"a service acts for a tenant, and names it in {TENANT_HEADER}"
            raise Unauthenticated("TENANT_MISSING", message, field=TENANT_HEADER)
        try:
            return Caller(check_id(tenant, field=TENANT_HEADER), SERVICE_PREFIX + name, role)
        except InvalidArgument as error:
            raise Unauthenticated(error.reason, error.message, field=error.field) from None


@lru_cache(maxsize=1000)
def _uri(names: tuple[bytes, ...]) -> str:
    """The one URI of a certificate's alternative names; empty if it has none, or several."""
    uris = [name.decode(errors="replace") for name in names if b"://" in name]
    return uris[0] if len(uris) == 1 else ""
