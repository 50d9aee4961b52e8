"""User tokens: short-lived JWTs (RFC 7519), signed with Ed25519 (EdDSA, RFC 8037).

A service has only the public keys. It checks their JWKS file for changes every second, so keys can be rotated without a
restart; a change discards all cached verifications. If the file becomes unreadable, the service logs an error and keeps
the previous keys, so that a half-finished rotation does not lock everyone out. The times in a token come from another
machine, so they are compared with a leeway, and error messages show the time on this machine.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from common.auth.caller import SERVICE_PREFIX, Caller, Role
from common.auth.identity import LEEWAY_S, shown_time
from common.auth.signing_keys import ALGORITHM, jwks_version, public_jwk, read_jwks, read_signing_key
from common.errors import FailedPrecondition, InvalidArgument, Unauthenticated
from common.names import check_id

ISSUER = "deepseek-mesh"
AUDIENCE = "deepseek-mesh"
MAX_LIFETIME_S = 24 * 3600
"""Maximum lifetime of a token. A token with a longer lifetime is rejected even if its signature is valid."""

_RELOAD_INTERVAL_S = 1.0
_MAX_CACHED = 10_000
_MAX_TOKEN_BYTES = 8192
_MAX_MOMENT_S = 1e11  # a larger value is probably in milliseconds
_logger = logging.getLogger(__name__)


class TokenVerifier:
    """Verifies tokens. Thread-safe.

    Args:
        jwks_file: File with the public keys; keys for other purposes are skipped (RFC 7517, section 5).
        leeway_s: Accepted clock skew in seconds: a token is accepted up to this long before its start and after its
            expiry.

    Raises:
        FailedPrecondition: BAD_JWKS_FILE if the file cannot be read or contains no usable key.
    """

    def __init__(self, jwks_file: Path, *, leeway_s: float = LEEWAY_S, clock: Callable[[], float] = time.time) -> None:
        self._file = jwks_file
        self._leeway_s = leeway_s
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = jwks_version(jwks_file)
        self._keys = read_jwks(jwks_file)
        self._verified: dict[bytes, tuple[Caller, float]] = {}
        self._next_reload_s = time.monotonic() + _RELOAD_INTERVAL_S

    def verify(self, token: str) -> Caller:
        """Returns the caller to whom the token was issued.

        Raises:
            Unauthenticated: TOKEN_EXPIRED, or BAD_TOKEN if the token is not valid for another reason.
        """
        if time.monotonic() > self._next_reload_s:
            self._reload_if_changed()
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
                "Get a new token. If the old one should still be valid, synchronize the clocks of both machines"
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
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                # Times are checked with the leeway: the start below, and the expiry in every call of `verify`.
                options={
                    "require": ["exp", "iat", "sub", "aud", "iss"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except KeyError:
            raise _bad("it is not signed by a key of this mesh") from None
        except jwt.InvalidTokenError as error:
            raise _bad(str(error)) from None
        self._refuse_future(claims)
        return _caller(claims)

    def _refuse_future(self, claims: dict[str, Any]) -> None:
        now = self._clock()
        for claim, meaning in (("iat", "was issued at"), ("nbf", "is not valid before")):
            moment = _moment(claims[claim], claim) if claim in claims else now
            if moment > now + self._leeway_s:
                raise _bad(
                    f"it {meaning} {_utc(moment)} ({claim}); the clock of this server says {_utc(now)}. "
                    "Synchronize the clocks of both machines"
                )

    def _reload_if_changed(self) -> None:
        with self._lock:
            if time.monotonic() <= self._next_reload_s:
                return
            self._next_reload_s = time.monotonic() + _RELOAD_INTERVAL_S
            try:
                version = jwks_version(self._file)
                if version == self._seen:
                    return
                # The cache is replaced, not cleared: a concurrent call that used the old keys writes to the old cache.
                self._keys, self._verified, self._seen = read_jwks(self._file), {}, version
            except FailedPrecondition as error:
                _logger.error("keeping the previous keys: %s", error.message, extra={"reason": error.reason})
            else:
                _logger.info("loaded new keys: %d", len(self._keys))


def _caller(claims: dict[str, Any]) -> tuple[Caller, float]:
    match claims:
        case {"sub": str(subject), "tenant": str(tenant), "role": str(role)}:
            pass
        case _:
            raise _bad("one of the claims sub, tenant and role is missing or has the wrong type")
    expires = _moment(claims["exp"], "exp")
    if expires - _moment(claims["iat"], "iat") > MAX_LIFETIME_S:
        raise _bad(f"its lifetime is longer than {MAX_LIFETIME_S} s")
    try:
        check_subject(subject)
        return Caller(check_id(tenant, field="tenant"), subject, role_of(role)), expires
    except InvalidArgument as error:
        raise _bad(error.message) from None


def _moment(value: Any, claim: str) -> float:
    """Returns a claim's NumericDate (RFC 7519): seconds since the epoch, possibly fractional."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MAX_MOMENT_S:
        raise _bad(f"the claim {claim} is not a time in seconds since 1970")
    return float(value)


def _utc(moment: float) -> str:
    return shown_time(datetime.fromtimestamp(moment, UTC))


def _bad(why: str) -> Unauthenticated:
    return Unauthenticated("BAD_TOKEN", f"the token is not valid: {why}", field="authorization")


def check_subject(subject: str) -> str:
    """Checks the subject of a user and returns it.

    Raises:
        InvalidArgument: BAD_SUBJECT if it starts with `service:` or does not have 1 to 255 printable characters.
    """
    if not (0 < len(subject) <= 255 and subject.isprintable()) or subject.startswith(SERVICE_PREFIX):
        message = f"a subject must have 1 to 255 printable characters and must not start with {SERVICE_PREFIX!r}"
        raise InvalidArgument("BAD_SUBJECT", message, field="subject")
    return subject


def role_of(name: str) -> Role:
    """Returns the role with the given name, e.g. `writer`.

    Raises:
        InvalidArgument: UNKNOWN_ROLE.
    """
    try:
        return Role[name.upper()]
    except KeyError:
        known = ", ".join(map(str, Role))
        raise InvalidArgument(
            "UNKNOWN_ROLE", f"unknown role {name[:80]!r}; the roles are {known}", field="role"
        ) from None


def issue_token(
    signing_key: Path, subject: str, *, tenant: str, role: Role, lifetime_s: int, clock: Callable[[], float] = time.time
) -> str:
    """Issues a token to a user.

    Args:
        signing_key: File with a private key that `new_signing_key` created.
        subject: Name of the user.
        tenant: Tenant whose data the user sees.
        role: Role of the user.
        lifetime_s: Seconds until the token expires.

    Raises:
        InvalidArgument: BAD_SUBJECT; BAD_NAME; BAD_LIFETIME if the lifetime is not between 1 s and 24 h.
        FailedPrecondition: BAD_SIGNING_KEY if the file cannot be read.
    """
    if not 0 < lifetime_s <= MAX_LIFETIME_S:
        raise InvalidArgument(
            "BAD_LIFETIME",
            f"the lifetime is {lifetime_s} s; it must be between 1 and {MAX_LIFETIME_S} s",
            field="lifetime_s",
        )
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
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": public_jwk(key)["kid"]})


def unverified_tenant(token: str) -> str:
    """Returns a token's tenant without verifying the token. Use it only for this process's own tokens.

    Raises:
        InvalidArgument: BAD_TOKEN if the text is not a token.
    """
    return str(_unverified(token, "tenant"))


def unverified_expiry_s(token: str) -> float:
    """Returns a token's expiry, in seconds since the epoch, without verifying the token.

    Raises:
        InvalidArgument: BAD_TOKEN if the text is not a token.
    """
    return float(_unverified(token, "exp"))


def _unverified(token: str, claim: str) -> Any:
    try:
        return jwt.decode(token, options={"verify_signature": False})[claim]
    except (jwt.InvalidTokenError, KeyError) as error:
        raise InvalidArgument("BAD_TOKEN", "the file does not contain a mesh token", field="token_file") from error
