"""Keys that sign and verify tokens: the private key, and a JWKS file with the public keys (RFC 7517, RFC 8037).

The id of a key is its thumbprint (RFC 7638). If a JWKS file contains keys that cannot verify tokens, they are skipped,
as RFC 7517 requires.
"""

import base64
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from common.errors import FailedPrecondition

ALGORITHM = "EdDSA"

_MAX_SHOWN = 10
_logger = logging.getLogger(__name__)


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """Returns the private key in a file.

    Raises:
        FailedPrecondition: BAD_SIGNING_KEY if the file cannot be read or contains no Ed25519 key.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        message = f"{path} contains no Ed25519 key; create one with `deepseek certs init`"
        raise FailedPrecondition("BAD_SIGNING_KEY", message, field="identity")
    return key


def new_signing_key() -> tuple[bytes, dict[str, str]]:
    """Creates a key pair; returns the private key as PKCS #8 PEM and the public key as a JWK."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), public_jwk(key)


def public_jwk(key: Ed25519PrivateKey) -> dict[str, str]:
    """Returns the public key that belongs to a private key, as a JWK (RFC 8037)."""
    jwk = {
        "crv": "Ed25519",
        "kty": "OKP",
        "x": _base64url(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)),
    }
    thumbprint = hashlib.sha256(json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode()).digest()
    return {**jwk, "kid": _base64url(thumbprint), "use": "sig", "alg": ALGORITHM}


def jwks(keys: Sequence[dict[str, str]]) -> bytes:
    """Returns the content of a JWKS file that contains the given JWKs."""
    return json.dumps({"keys": list(keys)}, indent=2).encode() + b"\n"


def read_jwks(path: Path) -> dict[str, Ed25519PublicKey]:
    """Returns the usable keys of a JWKS file, as a mapping from key id to key.

    Raises:
        FailedPrecondition: BAD_JWKS_FILE if the file cannot be read or contains no usable key.
    """
    try:
        members = json.loads(path.read_bytes())["keys"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FailedPrecondition("BAD_JWKS_FILE", f"{path} is not a JWKS file: {error}", field="identity") from error
    if not isinstance(members, list):
        message = f"{path} is not a JWKS file: its member `keys` is not a list"
        raise FailedPrecondition("BAD_JWKS_FILE", message, field="identity")
    keys: dict[str, Ed25519PublicKey] = {}
    skipped = []
    for index, jwk in enumerate(members):
        try:
            kid, key = _public_key(jwk)
            if kid in keys:
                raise ValueError(f"an earlier key has the same kid {kid[:80]!r}")
            keys[kid] = key
        except ValueError as error:
            skipped.append(f"keys[{index}]: {error}")
    more = "" if len(skipped) <= _MAX_SHOWN else f"; and {len(skipped) - _MAX_SHOWN} more"
    why = "; ".join(skipped[:_MAX_SHOWN]) + more
    if not keys:
        message = f"{path} contains no Ed25519 key that can verify tokens ({why or 'it is empty'})"
        raise FailedPrecondition("BAD_JWKS_FILE", message, field="identity")
    if skipped:
        _logger.info("skipped keys of %s: %s", path, why)
    return keys


def _public_key(jwk: Any) -> tuple[str, Ed25519PublicKey]:
    """Returns the id and the key of a JWK; raises a ValueError if the JWK is unusable. Ignores unknown members."""
    if not isinstance(jwk, dict):
        raise ValueError("is not an object")
    for member, wanted in (("kty", "OKP"), ("crv", "Ed25519")):
        if jwk.get(member) != wanted:
            raise ValueError(f"{member} is {_shown(jwk.get(member))}, not {wanted!r}")
    for member, wanted in (("use", "sig"), ("alg", ALGORITHM)):
        if jwk.get(member, wanted) != wanted:
            raise ValueError(f"{member} is {_shown(jwk[member])}, not {wanted!r}")
    if "key_ops" in jwk and not (isinstance(jwk["key_ops"], list) and "verify" in jwk["key_ops"]):
        raise ValueError("key_ops does not contain 'verify'")
    kid, x = jwk.get("kid"), jwk.get("x")
    if not isinstance(kid, str) or not kid:
        raise ValueError("has no kid")
    if not isinstance(x, str):
        raise ValueError("has no x")
    try:
        return kid, Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(x + "=" * (-len(x) % 4)))
    except ValueError:
        raise ValueError("x does not encode 32 bytes in base64url") from None


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)[:80]


def jwks_version(path: Path) -> tuple[int, int, int]:
    """Returns a value that changes when the file is replaced. Our own code never modifies the file in place."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise FailedPrecondition("BAD_JWKS_FILE", f"{path}: {error.strerror}", field="identity") from error
    return found.st_ino, found.st_mtime_ns, found.st_size


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
