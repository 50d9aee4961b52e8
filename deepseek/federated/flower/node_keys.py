"""Keys by which Flower identifies nodes: ECDSA on the curve P-384, in OpenSSH's format.

A node keeps its private key; the federation registers the public one. The fingerprint of the public key is the node's
stable id, even if Flower's own id of the node changes.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from common.files import create_file, disk_error, replace_file

_MAX_KEY_BYTES = 4096


@dataclass(frozen=True)
class NodeKey:
    """A node's public key.

    Attributes:
        text: The key in OpenSSH's format, without a comment.
        pem: The key in PEM, as Flower's API expects it.
        fingerprint: SHA-256 of the key's DER encoding, in hexadecimal.
    """

    text: str
    pem: bytes
    fingerprint: str


def read_public_key(public_key: bytes, *, field: str = "public_key") -> NodeKey:
    """Checks and parses a public key.

    Args:
        public_key: The key in OpenSSH's format, i.e. the content of a `.pub` file.
        field: Path of the field for errors.

    Raises:
        InvalidArgument: BAD_NODE_KEY if it is not one public key on the curve P-384.
    """
    hint = "create one with `ssh-keygen -t ecdsa -b 384`"
    if len(public_key) > _MAX_KEY_BYTES:
        raise InvalidArgument("BAD_NODE_KEY", f"the public key has {len(public_key)} bytes; {hint}", field=field)
    line = public_key.strip()
    if b"\n" in line:
        raise InvalidArgument("BAD_NODE_KEY", f"more than one line, but one public key is needed; {hint}", field=field)
    try:
        key = load_ssh_public_key(line)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidArgument("BAD_NODE_KEY", f"not an OpenSSH public key: {error}; {hint}", field=field) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        found = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else line.split(maxsplit=1)[0].decode()
        message = f"the public key is of the type {found}, and nodes need ECDSA P-384; {hint}"
        raise InvalidArgument("BAD_NODE_KEY", message, field=field)
    return _node_key(key)


def fingerprint_of_pem(pem: bytes) -> str:
    """Returns the fingerprint of a key in PEM, as Flower stores it; empty if it is no EC key."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        return ""
    return _node_key(key).fingerprint if isinstance(key, ec.EllipticCurvePublicKey) else ""


def create_key(path: Path) -> NodeKey:
    """Creates a private key in `path` and its public key in `path` with the suffix `.pub` appended.

    Raises:
        AlreadyExists: NODE_KEY_EXISTS; nothing was changed.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    public = _node_key(key.public_key())
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not create_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())):
            message = f"{path} exists already; delete it or choose another path"
            raise AlreadyExists("NODE_KEY_EXISTS", message, field="key")
        replace_file(path.with_name(f"{path.name}.pub"), f"{public.text}\n".encode(), mode=0o644)
    except OSError as error:
        raise disk_error(error, path) from error
    return public


def read_private_key(path: Path) -> tuple[ec.EllipticCurvePrivateKey, NodeKey]:
    """Reads a node's private key.

    Raises:
        FailedPrecondition: BAD_NODE_KEY if the file cannot be read, is encrypted, or has no key on the curve P-384.
    """
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        message = f"{path} contains no private key without a passphrase in OpenSSH's format: {error}"
        raise FailedPrecondition("BAD_NODE_KEY", message, field="key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise FailedPrecondition("BAD_NODE_KEY", f"{path} contains no ECDSA P-384 key", field="key")
    return key, _node_key(key.public_key())


def _node_key(key: ec.EllipticCurvePublicKey) -> NodeKey:
    text = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return NodeKey(text, pem, hashlib.sha256(der).hexdigest())
