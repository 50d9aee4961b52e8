"""Explains why a TLS handshake failed, with a remedy.

gRPC reports the cause only in the text of its status, and a server that rejects a certificate merely closes the
connection. If the text matches no known TLS failure, this module does not blame TLS: the server may be down.
"""

import datetime
import socket
import ssl

from common.auth.identity import Identity, shown_time
from common.errors import FailedPrecondition

_HUNG_UP = ": Socket closed"
_PROBE_S = 2.0
_RENEW = "renew it with `deepseek certs renew`"
_CAUSES = (
    (
        "certificate has expired",
        f"the server's certificate has expired; {_RENEW}. The server need not be restarted",
    ),
    (
        "not yet valid",
        "the server's certificate is not valid yet: the clock of this machine says {now}. Synchronize the clock",
    ),
    ("WRONG_VERSION_NUMBER", "the server does not use TLS; connect without an identity, or start the server with one"),
    (
        "Hostname Verification",
        "the server's certificate is for other hosts; add this host with `deepseek certs renew --host`",
    ),
    (
        "create security handshaker",
        "the certificate files in {folder} do not match each other; renew them with `deepseek certs renew`",
    ),
    (
        "andshake failed",
        "the CA in {folder}/ca.pem did not sign the server's certificate; use the identity folder of the server's mesh",
    ),
)
"""Pairs of a fragment of gRPC's text and the cause that it indicates. The first match counts."""


def why_tls_failed(details: str, address: str, identity: Identity | None) -> str:
    """Returns why a connection failed, if TLS is the cause.

    Args:
        details: Status text of a call that failed with UNAVAILABLE.
        address: `host:port` of the server; it may be probed for TLS.
        identity: Identity of the client; None means no TLS.

    Returns:
        The cause and a remedy; empty if TLS is not the cause.
    """
    if not details.startswith("failed to connect"):
        return ""
    if identity is None:
        return "the server requires TLS; specify an identity" if _HUNG_UP in details and _speaks_tls(address) else ""
    if _HUNG_UP in details:
        return _why_refused(identity)
    cause = next((cause for text, cause in _CAUSES if text in details), "")
    return cause.format(folder=identity.folder, now=shown_time(datetime.datetime.now(datetime.UTC)))


def _why_refused(identity: Identity) -> str:
    try:
        validity = identity.validity()
    except FailedPrecondition as error:
        return error.message
    folder = identity.folder
    if validity is None:
        return f"the server requires a client certificate; {folder} has none. Use the folder of a service or `cli`"
    (begins, expires), now = validity, datetime.datetime.now(datetime.UTC)
    if expires < now:
        return f"the certificate in {folder} has expired; {_RENEW}"
    if now < begins:
        message = f"the certificate in {folder} is not valid before {shown_time(begins)}"
        return f"{message}; the clock of this machine says {shown_time(now)}. Synchronize the clock"
    return f"the server rejects the certificate in {folder}: another CA signed it; use a folder of the server's mesh"


def _speaks_tls(address: str) -> bool:
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is sent, so the server need not be verified.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _PROBE_S) as plain, context.wrap_socket(plain):
            return True
    except (OSError, ValueError):
        return False
