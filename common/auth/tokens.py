"""Tokens of users: short-lived JWTs (RFC 7519), signed with Ed25519 (EdDSA, RFC 8037), keys in a JWKS file (RFC 7517).

A service holds public keys only. Keys rotate without a restart: the file is looked at again every second, and what was
verified before counts no longer once it has changed. A file that has become unreadable changes nothing, so that a
half-done rotation does not lock everyone out; the log says so.
"""

import base64
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from common.auth.caller import SERVICE_PREFIX, Caller, Role
from common.errors import FailedPrecondition, InvalidArgument, Unauthenticated
from common.names import check_id

ISSUER = "deepseek-mesh"
AUDIENCE = "deepseek-mesh"
MAX_LIFETIME_S = 24 * 3600
"""A token that lives longer is refused, whoever signed it."""

_ALGORITHM = "EdDSA"
_LOOK_S = 1.0
_MAX_CACHED = 10_000
_MAX_TOKEN_BYTES = 8192
_logger = logging.getLogger(__name__)


class TokenVerifier:
    """Tells whose token it is. Thread-safe.

    Args:
        jwks_file: The public keys.

    Raises:
        FailedPrecondition: BAD_JWKS_FILE if it cannot be read.
    """

    def __init__(self, jwks_file: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._file = jwks_file
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = _version(jwks_file)
        self._keys = _read_jwks(jwks_file)
        self._verified: dict[bytes, tuple[Caller, float]] = {}
        self._next_look_s = time.monotonic() + _LOOK_S

    def verify(self, token: str) -> Caller:
        """Returns who the token was made for.

        Raises:
            Unauthenticated: TOKEN_EXPIRED, or BAD_TOKEN for any other reason; the message says which.
        """
        if time.monotonic() > self._next_look_s:
            self._look_again()
        keys, verified = self._keys, self._verified
        digest = hashlib.sha256(token.encode()).digest()
        caller, expires = verified.get(digest, (None, 0.0))
        if caller is None:
            caller, expires = self._check(token, keys)
            if len(verified) >= _MAX_CACHED:
                verified.clear()
            verified[digest] = caller, expires
        if expires <= self._clock():
            raise Unauthenticated("TOKEN_EXPIRED", "the token has expired; get a new one", field="authorization")
        return caller

    def _check(self, token: str, keys: dict[str, Ed25519PublicKey]) -> tuple[Caller, float]:
        if len(token) > _MAX_TOKEN_BYTES:
            raise _bad(f"it is longer than {_MAX_TOKEN_BYTES} bytes")
        try:
            key = keys[str(jwt.get_unverified_header(token).get("kid"))]
            claims = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                # Expiry is looked at in every call, with our clock.
                options={"require": ["exp", "iat", "sub", "aud", "iss"], "verify_exp": False},
            )
        except KeyError:
            raise _bad("no key of this mesh has signed it") from None
        except jwt.InvalidTokenError as error:
            raise _bad(str(error)) from None
        return _caller(claims)

    def _look_again(self) -> None:
        with self._lock:
            if time.monotonic() <= self._next_look_s:
                return
            self._next_look_s = time.monotonic() + _LOOK_S
            try:
                version = _version(self._file)
                if version == self._seen:
                    return
                # A new dictionary: a call that verifies by the old keys at this moment fills the old one.
                self._keys, self._verified, self._seen = _read_jwks(self._file), {}, version
            except FailedPrecondition as error:
                _logger.error("keeping the keys of before: %s", error.message, extra={"reason": error.reason})
            else:
                _logger.info("took new keys: %d", len(self._keys))


def _caller(claims: dict[str, Any]) -> tuple[Caller, float]:
    match claims:
        case {"sub": str(subject), "tenant": str(tenant), "role": str(role), "exp": int(expires), "iat": int(issued)}:
            pass
        case _:
            raise _bad("a claim of sub, tenant, role, iat or exp is missing or of the wrong type")
    if expires - issued > MAX_LIFETIME_S:
        raise _bad(f"it lives longer than {MAX_LIFETIME_S} s")
    try:
        check_subject(subject)
        return Caller(check_id(tenant, field="tenant"), subject, role_of(role)), float(expires)
    except InvalidArgument as error:
        raise _bad(error.message) from None


def _bad(why: str) -> Unauthenticated:
    return Unauthenticated("BAD_TOKEN", f"the token cannot be accepted: {why}", field="authorization")


def check_subject(subject: str) -> str:
    """Returns a user's subject.

    Raises:
        InvalidArgument: BAD_SUBJECT unless it is 1 to 255 printable characters and no service's.
    """
    if not (0 < len(subject) <= 255 and subject.isprintable()) or subject.startswith(SERVICE_PREFIX):
        message = f"a subject has 1 to 255 printable characters and does not start with {SERVICE_PREFIX!r}"
        raise InvalidArgument("BAD_SUBJECT", message, field="subject")
    return subject


def role_of(name: str) -> Role:
    """Returns a role by its name, e.g. `writer`.

    Raises:
        InvalidArgument: UNKNOWN_ROLE.
    """
    try:
        return Role[name.upper()]
    except KeyError:
        known = ", ".join(map(str, Role))
        raise InvalidArgument("UNKNOWN_ROLE", f"{name[:80]!r} is no role; known are {known}", field="role") from None


def issue_token(
    signing_key: Path, subject: str, *, tenant: str, role: Role, lifetime_s: int, clock: Callable[[], float] = time.time
) -> str:
    """Makes a token.

    Args:
        signing_key: File with the private key, as `new_signing_key` made it.
        subject: The user.
        tenant: Whose data they see.
        role: What they may do.
        lifetime_s: Seconds until it expires.

    Raises:
        InvalidArgument: BAD_SUBJECT, BAD_NAME, or BAD_LIFETIME unless it is 1 s to 24 h.
        FailedPrecondition: BAD_SIGNING_KEY if the file cannot be read.
    """
    if not 0 < lifetime_s <= MAX_LIFETIME_S:
        raise InvalidArgument("BAD_LIFETIME", f"a token lives 1 to {MAX_LIFETIME_S} seconds", field="lifetime_s")
    try:
        key = load_pem_private_key(signing_key.read_bytes(), password=None)
    except (OSError, ValueError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        message = f"{signing_key} holds no Ed25519 key; `deepseek certs init` makes one"
        raise FailedPrecondition("BAD_SIGNING_KEY", message, field="identity")
    now = int(clock())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": check_subject(subject),
        "tenant": check_id(tenant, field="tenant"),
        "role": str(role),
        "iat": now,
        "exp": now + lifetime_s,
    }
    return jwt.encode(claims, key, algorithm=_ALGORITHM, headers={"kid": public_jwk(key)["kid"]})


def unverified_tenant(token: str) -> str:
    """The tenant that a token of one's own names.

    Raises:
        InvalidArgument: BAD_TOKEN if it is no token.
    """
    return str(_unverified(token, "tenant"))


def unverified_expiry_s(token: str) -> float:
    """When a token of one's own expires, in seconds since the epoch.

    Raises:
        InvalidArgument: BAD_TOKEN if it is no token.
    """
    return float(_unverified(token, "exp"))


def _unverified(token: str, claim: str) -> Any:
    try:
        return jwt.decode(token, options={"verify_signature": False})[claim]
    except (jwt.InvalidTokenError, KeyError) as error:
        raise InvalidArgument("BAD_TOKEN", "this is no token of a mesh", field="token_file") from error


def new_signing_key() -> tuple[bytes, dict[str, str]]:
    """Makes a key: PKCS #8 PEM of the private one, the public one as a JWK."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), public_jwk(key)


def public_jwk(key: Ed25519PrivateKey) -> dict[str, str]:
    """The public half of a key as a JWK (RFC 8037), named by its thumbprint (RFC 7638)."""
    jwk = {
        "crv": "Ed25519",
        "kty": "OKP",
        "x": _base64url(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)),
    }
    thumbprint = hashlib.sha256(json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode()).digest()
    return {**jwk, "kid": _base64url(thumbprint), "use": "sig", "alg": _ALGORITHM}


def jwks(keys: Sequence[dict[str, str]]) -> bytes:
    """A JWKS file's content."""
    return json.dumps({"keys": list(keys)}, indent=2).encode() + b"\n"


def _read_jwks(path: Path) -> dict[str, Ed25519PublicKey]:
    try:
        keys: dict[str, Ed25519PublicKey] = {}
        for jwk in json.loads(path.read_bytes())["keys"]:
            if (jwk["kty"], jwk["crv"]) == ("OKP", "Ed25519"):
                raw = base64.urlsafe_b64decode(jwk["x"] + "=" * (-len(jwk["x"]) % 4))
                keys[jwk["kid"]] = Ed25519PublicKey.from_public_bytes(raw)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FailedPrecondition("BAD_JWKS_FILE", f"{path} is not a JWKS file: {error}", field="identity") from error
    if not keys:
        raise FailedPrecondition("BAD_JWKS_FILE", f"{path} holds no Ed25519 key", field="identity")
    return keys


def _version(path: Path) -> tuple[int, int, int]:
    """Changes when the file does: it is replaced, never written in place."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise FailedPrecondition("BAD_JWKS_FILE", f"{path}: {error.strerror}", field="identity") from error
    return found.st_ino, found.st_mtime_ns, found.st_size


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
