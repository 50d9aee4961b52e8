"""Why a TLS connection did not come about, in words that say what to do.

gRPC tells it in the text of its status and nowhere else, and a server that refuses a certificate only hangs up. What is
not known for a failure of TLS counts as none: nobody is there, or not yet.
"""

import datetime
import socket
import ssl

from common.auth.identity import Identity, shown_time
from common.errors import FailedPrecondition

_HUNG_UP = ": Socket closed"
_PROBE_S = 2.0
_RENEW = "`deepseek certs renew` makes it anew"
_CAUSES = (
    ("certificate has expired", f"the server's certificate has expired; {_RENEW}, and the server takes it at once"),
    ("not yet valid", "the server's certificate is not yet valid by the clock of this machine, {now}; synchronize it"),
    ("WRONG_VERSION_NUMBER", "the server does not speak TLS; name no identity, or start it with one"),
    ("Hostname Verification", "the server's certificate is for other names; `deepseek certs renew --host` adds one"),
    ("create security handshaker", "the files in {folder} do not fit together; `deepseek certs renew` makes them anew"),
    ("andshake failed", "{folder}/ca.pem is not of the CA that signed the server's certificate; name the right folder"),
)
"""By what gRPC's text has; the first counts."""


def why_tls_failed(details: str, address: str, identity: Identity | None) -> str:
    """Explains why there is no connection, if TLS is the reason.

    Args:
        details: Text of the status of a call that found its server UNAVAILABLE.
        address: `host:port` of the server; it may be asked whether it speaks TLS.
        identity: What was shown to it; None means no TLS.

    Returns:
        The cause and the next step; empty if TLS is not the reason.
    """
    if not details.startswith("failed to connect"):
        return ""
    if identity is None:
        return "the server speaks TLS; name an identity" if _HUNG_UP in details and _speaks_tls(address) else ""
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
        return f"the server wants a certificate, and {folder} has none; name the folder of a service or of `cli`"
    (begins, expires), now = validity, datetime.datetime.now(datetime.UTC)
    if expires < now:
        return f"the certificate in {folder} has expired; {_RENEW}"
    if now < begins:
        message = f"the certificate in {folder} is valid from {shown_time(begins)}"
        return f"{message}; the clock of this machine says {shown_time(now)}: synchronize it"
    return f"the server does not take the certificate in {folder}, which another CA has signed; name the right folder"


def _speaks_tls(address: str) -> bool:
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is sent; who it is does not matter.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _PROBE_S) as plain, context.wrap_socket(plain):
            return True
    except (OSError, ValueError):
        return False
