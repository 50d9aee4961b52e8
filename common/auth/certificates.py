"""A certificate authority for a small site. One folder holds the CA, one certificate per service, and signing keys.

Certificates use ECDSA P-256 because gRPC's TLS does not support Ed25519. The CA's key and the signing key remain on the
machine where they were created; a service receives only its own folder.

    <folder>/ca.pem, ca.key.pem            the authority
    <folder>/signing/key.pem, jwks.json    keys that sign and verify tokens
    <folder>/<name>/ca.pem, cert.pem, key.pem, jwks.json
"""

import datetime
import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.auth.identity import CLI_URI, EDGE_URI, SERVICE_URI
from common.auth.signing_keys import jwks, new_signing_key, public_jwk, read_signing_key
from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from common.files import replace_file
from common.names import check_id

CA_DAYS = 3650
LEAF_DAYS = 365
_CLIENT_URIS = {"edge": EDGE_URI, "cli": CLI_URI}
_CLOCK_SKEW = datetime.timedelta(minutes=5)


def make_authority(folder: Path, names: Sequence[str], *, hosts: Sequence[str] = ()) -> None:
    """Creates a CA, certificates and a signing key.

    Args:
        folder: Folder of the authority; created so that only its owner can access it.
        names: Names of the services that get certificates, in addition to `edge` and `cli`.
        hosts: DNS names and IP addresses of the services, in addition to `localhost` and each service's own name.

    Raises:
        AlreadyExists: IDENTITY_EXISTS; nothing was changed.
        InvalidArgument: BAD_NAME.
    """
    if (folder / "ca.pem").exists():
        message = f"{folder} already contains an authority; renew its certificates with `deepseek certs renew`"
        raise AlreadyExists("IDENTITY_EXISTS", message, field="folder")
    names = [check_id(name, field="name") for name in names]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "DeepSeek Mesh CA")])
    certificate = (
        _builder(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    replace_file(folder / "ca.key.pem", _pem(key))
    rotate_signing_key(folder)
    for one in [*names, *_CLIENT_URIS]:
        _issue(folder, key, certificate, one, hosts)
    # Written last, because this file marks the authority as complete.
    replace_file(folder / "ca.pem", certificate.public_bytes(Encoding.PEM))


def renew(folder: Path, *, names: Sequence[str] = (), hosts: Sequence[str] = ()) -> list[str]:
    """Issues new certificates from the same CA. Servers load them without a restart.

    Args:
        folder: Folder of the authority.
        names: Names of the certificates to issue, which need not exist yet. If empty, all existing ones are renewed.
        hosts: See `make_authority`.

    Returns:
        The names of the issued certificates.

    Raises:
        FailedPrecondition: IDENTITY_NOT_FOUND.
        InvalidArgument: BAD_NAME.
    """
    key, certificate = _authority(folder)
    chosen = [check_id(name, field="name") for name in names] or sorted(_folders(folder))
    for name in chosen:
        _issue(folder, key, certificate, name, hosts)
    return chosen


def rotate_signing_key(folder: Path, *, revoke: bool = False) -> None:
    """Creates a new signing key. Unless `revoke` is set, tokens signed with the previous key stay valid until expiry.

    Args:
        folder: Folder of the authority.
        revoke: Whether all existing tokens become invalid immediately.

    Raises:
        FailedPrecondition: BAD_SIGNING_KEY if the previous key cannot be read and `revoke` is not set.
    """
    signing = folder / "signing"
    signing.mkdir(mode=0o700, exist_ok=True)
    pem, public = new_signing_key()
    current = signing / "key.pem"
    # Derived from the private key, because the JWKS file may have been edited.
    before = [] if revoke or not current.exists() else [public_jwk(read_signing_key(current))]
    content = jwks([public, *before])
    # Services receive the public key before any token is signed with it.
    for place in (signing, *_folders(folder).values()):
        replace_file(place / "jwks.json", content, mode=0o644)
    replace_file(current, pem)


def _folders(folder: Path) -> Mapping[str, Path]:
    return {path.parent.name: path.parent for path in folder.glob("*/cert.pem")}


def _authority(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    try:
        key = load_pem_private_key((folder / "ca.key.pem").read_bytes(), password=None)
        certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    except (OSError, ValueError) as error:
        message = f"{folder} contains no authority; create one with `deepseek certs init`"
        raise FailedPrecondition("IDENTITY_NOT_FOUND", message, field="folder") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FailedPrecondition("IDENTITY_NOT_FOUND", f"{folder}/ca.key.pem contains no EC key", field="folder")
    return key, certificate


def _issue(
    folder: Path, ca_key: ec.EllipticCurvePrivateKey, ca: x509.Certificate, name: str, hosts: Sequence[str]
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = [
        x509.UniformResourceIdentifier(_CLIENT_URIS.get(name, SERVICE_URI + name)),
        *(_host(host) for host in dict.fromkeys([name, "localhost", "127.0.0.1", "::1", *hosts])),
    ]
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), ca.subject, key.public_key(), LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(usages, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    place = folder / name
    place.mkdir(mode=0o700, exist_ok=True)
    replace_file(place / "ca.pem", ca.public_bytes(Encoding.PEM), mode=0o644)
    replace_file(place / "jwks.json", (folder / "signing" / "jwks.json").read_bytes(), mode=0o644)
    replace_file(place / "key.pem", _pem(key))
    replace_file(place / "cert.pem", certificate.public_bytes(Encoding.PEM), mode=0o644)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise InvalidArgument("BAD_HOST", f"{host!r} is neither a DNS name nor an IP address", field="host") from error


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
