"""Tokens of users: short-lived JWTs (RFC 7519), signed with Ed25519 (EdDSA, RFC 8037), keys in a JWKS file (RFC 7517).

A service holds public keys only. Keys rotate without a restart: the file is looked at again every second, and what was
verified before counts no longer once it has changed. A file that has become unreadable changes nothing, so that a
half-done rotation does not lock everyone out; the log says so. Keys of a set for other purposes are skipped.

Times in a token come from another machine: they are compared with a leeway, and errors show both clocks.
"""

import base64
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
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
from common.auth.identity import LEEWAY_S, shown_time
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
_MAX_SHOWN = 10
_MAX_MOMENT_S = 1e11  # beyond it, a time in seconds is likely one in milliseconds
_logger = logging.getLogger(__name__)


class TokenVerifier:
    """Tells whose token it is. Thread-safe.

    Args:
        jwks_file: The public keys; those that cannot verify a token of a mesh are skipped (RFC 7517, section 5).
        leeway_s: Accepted clock skew, seconds: how far a token may be in the future, or have expired.

    Raises:
        FailedPrecondition: BAD_JWKS_FILE if it cannot be read or holds no usable key.
    """

    def __init__(self, jwks_file: Path, *, leeway_s: float = LEEWAY_S, clock: Callable[[], float] = time.time) -> None:
        self._file = jwks_file
        self._leeway_s = leeway_s
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
        if expires + self._leeway_s <= (now := self._clock()):
            message = (
                f"the token expired at {_utc(expires)}; the clock of this server says {_utc(now)}. "
                "Get a new token; if it should still be valid, synchronize the clocks of both machines"
            )
            raise Unauthenticated("TOKEN_EXPIRED", message, field="authorization")
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
                # Times are checked below, against our clock; expiry in every call.
                options={
                    "require": ["exp", "iat", "sub", "aud", "iss"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except KeyError:
            raise _bad("no key of this mesh has signed it") from None
        except jwt.InvalidTokenError as error:
            raise _bad(str(error)) from None
        self._refuse_future(claims)
        return _caller(claims)

    def _refuse_future(self, claims: dict[str, Any]) -> None:
        now = self._clock()
        for claim, meaning in (("iat", "was issued"), ("nbf", "is not valid before")):
            moment = _moment(claims[claim], claim) if claim in claims else now
            if moment > now + self._leeway_s:
                raise _bad(
                    f"it {meaning} {_utc(moment)} ({claim}); the clock of this server says {_utc(now)}. "
                    "Synchronize the clocks of both machines"
                )

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
        case {"sub": str(subject), "tenant": str(tenant), "role": str(role)}:
            pass
        case _:
            raise _bad("a claim of sub, tenant or role is missing or of the wrong type")
    expires = _moment(claims["exp"], "exp")
    if expires - _moment(claims["iat"], "iat") > MAX_LIFETIME_S:
        raise _bad(f"it lives longer than {MAX_LIFETIME_S} s")
    try:
        check_subject(subject)
        return Caller(check_id(tenant, field="tenant"), subject, role_of(role)), expires
    except InvalidArgument as error:
        raise _bad(error.message) from None


def _moment(value: Any, claim: str) -> float:
    """A NumericDate of RFC 7519: seconds since the epoch, whole or not."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MAX_MOMENT_S:
        raise _bad(f"{claim} is not a time in seconds since 1970")
    return float(value)


def _utc(moment: float) -> str:
    return shown_time(datetime.fromtimestamp(moment, UTC))


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
    key = read_signing_key(signing_key)
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


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a file.

    Raises:
        FailedPrecondition: BAD_SIGNING_KEY if it cannot be read.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        message = f"{path} contains no Ed25519 key; `deepseek certs init` makes one"
        raise FailedPrecondition("BAD_SIGNING_KEY", message, field="identity")
    return key


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
    """The usable keys of a set, by their ids."""
    try:
        members = json.loads(path.read_bytes())["keys"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FailedPrecondition("BAD_JWKS_FILE", f"{path} is not a JWKS file: {error}", field="identity") from error
    if not isinstance(members, list):
        raise FailedPrecondition("BAD_JWKS_FILE", f"{path} is not a JWKS file: keys is not a list", field="identity")
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
    """Id and key of a JWK. ValueError says why it cannot be used. Unknown members are ignored."""
    if not isinstance(jwk, dict):
        raise ValueError("is not an object")
    for member, wanted in (("kty", "OKP"), ("crv", "Ed25519")):
        if jwk.get(member) != wanted:
            raise ValueError(f"{member} is {_shown(jwk.get(member))}, not {wanted!r}")
    for member, wanted in (("use", "sig"), ("alg", _ALGORITHM)):
        if jwk.get(member, wanted) != wanted:
            raise ValueError(f"{member} is {_shown(jwk[member])}, not {wanted!r}")
    if "key_ops" in jwk and not (isinstance(jwk["key_ops"], list) and "verify" in jwk["key_ops"]):
        raise ValueError("key_ops has no 'verify'")
    kid, x = jwk.get("kid"), jwk.get("x")
    if not isinstance(kid, str) or not kid:
        raise ValueError("has no kid")
    if not isinstance(x, str):
        raise ValueError("has no x")
    try:
        return kid, Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(x + "=" * (-len(x) % 4)))
    except ValueError:
        raise ValueError("x is not 32 bytes in base64url") from None


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)[:80]


def _version(path: Path) -> tuple[int, int, int]:
    """Changes when the file does: it is replaced, never written in place."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise FailedPrecondition("BAD_JWKS_FILE", f"{path}: {error.strerror}", field="identity") from error
    return found.st_ino, found.st_mtime_ns, found.st_size


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
