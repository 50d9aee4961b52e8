"""A certificate authority for a small site: one CA, a certificate a service, keys for tokens, all in one folder.

ECDSA P-256 throughout, since gRPC's TLS takes no Ed25519 certificates. The CA's key and the signing key stay where they
were made; a service gets its own folder only.

    <folder>/ca.pem, ca.key.pem            the authority
    <folder>/signing/key.pem, jwks.json    keys of tokens
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

from common.auth.identity import CLI_URI, EDGE_URI, SERVICE_URI, replace_file
from common.auth.tokens import jwks, new_signing_key, public_jwk, read_signing_key
from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from common.names import check_id

CA_DAYS = 3650
LEAF_DAYS = 365
_SPEAKERS = {"edge": EDGE_URI, "cli": CLI_URI}
_CLOCK_SKEW = datetime.timedelta(minutes=5)


def make_authority(folder: Path, names: Sequence[str], *, hosts: Sequence[str] = ()) -> None:
    """Makes a CA, certificates and a signing key.

    Args:
        folder: Where; made for the owner alone.
        names: The services to make certificates for; `edge` and `cli` come with them.
        hosts: Further names and addresses under which they are reached.

    Raises:
        AlreadyExists: IDENTITY_EXISTS; nothing was changed.
        InvalidArgument: BAD_NAME.
    """
    if (folder / "ca.pem").exists():
        message = f"{folder} holds an authority already; `deepseek certs renew` makes its certificates anew"
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
    for one in [*names, *_SPEAKERS]:
        _issue(folder, key, certificate, one, hosts)
    # Last, since it is what says that there is an authority.
    replace_file(folder / "ca.pem", certificate.public_bytes(Encoding.PEM))


def renew(folder: Path, *, names: Sequence[str] = (), hosts: Sequence[str] = ()) -> list[str]:
    """Makes certificates anew, by the same CA; servers take them without a restart.

    Args:
        folder: Of the authority.
        names: Which; those not made before are added. None given means all there are.
        hosts: As in `make_authority`.

    Returns:
        The names.

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
    """Makes a new key for tokens. Those of the key before it stay valid until they expire.

    Args:
        folder: Of the authority.
        revoke: Refuse every token that was made before, at once.

    Raises:
        FailedPrecondition: BAD_SIGNING_KEY if the previous key cannot be read and `revoke` is not set.
    """
    signing = folder / "signing"
    signing.mkdir(mode=0o700, exist_ok=True)
    pem, public = new_signing_key()
    current = signing / "key.pem"
    # Not from the set, which somebody may have edited.
    before = [] if revoke or not current.exists() else [public_jwk(read_signing_key(current))]
    content = jwks([public, *before])
    # Services learn the key before anything is signed with it.
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
        message = f"{folder} holds no authority; `deepseek certs init` makes one"
        raise FailedPrecondition("IDENTITY_NOT_FOUND", message, field="folder") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FailedPrecondition("IDENTITY_NOT_FOUND", f"{folder}/ca.key.pem is no EC key", field="folder")
    return key, certificate


def _issue(
    folder: Path, ca_key: ec.EllipticCurvePrivateKey, ca: x509.Certificate, name: str, hosts: Sequence[str]
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = [
        x509.UniformResourceIdentifier(_SPEAKERS.get(name, SERVICE_URI + name)),
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
        raise InvalidArgument("BAD_HOST", f"{host!r} is neither a DNS name nor an address", field="host") from error


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
