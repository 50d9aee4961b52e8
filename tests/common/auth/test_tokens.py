"""Tokens: what counts, what does not, and keys that change under a running verifier."""

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from common.auth import Caller, Role
from common.auth.certificates import make_authority, rotate_signing_key
from common.auth.signing_keys import jwks, new_signing_key
from common.auth.tokens import TokenVerifier, issue_token, unverified_tenant
from common.errors import FailedPrecondition, InvalidArgument, Unauthenticated
from tests.common.auth.key_sets import other_members
from tests.harness.processes import wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_authority(tmp_path / "identity", ["registry"])
    return tmp_path / "identity"


def verifier(folder: Path, **options: Any) -> TokenVerifier:
    return TokenVerifier(folder / "registry" / "jwks.json", **options)


def issue(folder: Path, **changes: Any) -> str:
    options: dict[str, Any] = {"subject": "ana", "tenant": "lab", "role": Role.WRITER, "lifetime_s": 60, **changes}
    return issue_token(folder / "signing" / "key.pem", options.pop("subject"), **options)


def forge(folder: Path, *, headers: dict[str, str] | None = None, **changes: Any) -> str:
    """A token that our key has signed, with other claims."""
    key = load_pem_private_key((folder / "signing" / "key.pem").read_bytes(), None)
    claims = jwt.decode(issue(folder), options={"verify_signature": False}) | changes
    kid = jwt.get_unverified_header(issue(folder))["kid"]
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, key, "EdDSA", headers=headers or {"kid": kid})


def test_a_token_says_who_calls(folder: Path) -> None:
    verify = verifier(folder)
    for _ in range(2):  # the second time from memory
        assert verify.verify(issue(folder)) == Caller("lab", "ana", Role.WRITER)
    assert unverified_tenant(issue(folder)) == "lab"


def refused(folder: Path, token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        verifier(folder).verify(token)
    assert caught.value.field == "authorization"
    return caught.value.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "another-mesh"},
        {"iss": "somebody"},
        {"aud": None},
        {"iss": None},
        {"sub": None},
        {"tenant": None},
        {"tenant": "../etc"},
        {"tenant": 7},
        {"role": "root"},
        {"role": None},
        {"sub": "service:trainer"},
        {"sub": ""},
        {"iat": None},
        {"exp": None},
        {"exp": 1e10},
        {"exp": "tomorrow"},
        {"exp": float("nan")},
        {"exp": True},
        {"iat": -1},
        {"iat": 4e9},
        {"nbf": 4e9},
        {"nbf": "tomorrow"},
    ],
    ids=str,
)
def test_a_token_with_another_claim_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    assert refused(folder, forge(folder, **changes)) == "BAD_TOKEN"


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "ü", "a" * 10_000], ids=["none", "x", "dots", "unicode", "long"])
def test_what_is_no_token_is_refused(folder: Path, token: str) -> None:
    assert refused(folder, token) == "BAD_TOKEN"


def test_other_algorithms_and_keys_are_refused(folder: Path) -> None:
    claims = jwt.decode(issue(folder), options={"verify_signature": False})
    kid = {"kid": jwt.get_unverified_header(issue(folder))["kid"]}
    public = load_pem_private_key((folder / "signing" / "key.pem").read_bytes(), None).public_key()
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    other = load_pem_private_key(new_signing_key()[0], None)
    assert refused(folder, jwt.encode(claims, None, "none", headers=kid)) == "BAD_TOKEN"
    assert refused(folder, jwt.encode(claims, raw, "HS256", headers=kid)) == "BAD_TOKEN"
    assert refused(folder, jwt.encode(claims, other, "EdDSA", headers=kid)) == "BAD_TOKEN"
    assert refused(folder, forge(folder, headers={"kid": "unknown"})) == "BAD_TOKEN"


def test_a_token_expires_even_from_memory(folder: Path) -> None:
    now = [time.time()]
    verify, token = verifier(folder, leeway_s=5, clock=lambda: now[0]), issue(folder)
    verify.verify(token)
    now[0] += 63
    verify.verify(token)
    now[0] += 3
    with pytest.raises(Unauthenticated) as caught:
        verify.verify(token)
    assert caught.value.reason == "TOKEN_EXPIRED"


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_token_of_an_issuer_whose_clock_is_ahead_counts_within_the_leeway(folder: Path, claim: str) -> None:
    now = time.time()
    verify = verifier(folder, leeway_s=5, clock=lambda: now)
    assert verify.verify(forge(folder, **{claim: now + 4.5})).subject == "ana"
    with pytest.raises(Unauthenticated) as caught:
        verify.verify(forge(folder, **{claim: now + 6}))
    assert caught.value.reason == "BAD_TOKEN"


def test_a_token_of_another_time_names_both_clocks_and_what_to_do(folder: Path) -> None:
    early, late = 1_800_000_000, 1_800_001_000
    token = issue(folder, clock=lambda: late)
    times = "2027-01-15 08:16:40 UTC", "2027-01-15 08:00:00 UTC"
    with pytest.raises(Unauthenticated) as caught:
        verifier(folder, clock=lambda: early).verify(token)
    for part in (*times, "was issued", "Synchronize the clocks"):
        assert part in caught.value.message
    with pytest.raises(Unauthenticated) as caught:
        verifier(folder, clock=lambda: late).verify(issue(folder, clock=lambda: early - 60))
    for part in (*times, "expired at", "Get a new token", "synchronize the clocks"):
        assert part in caught.value.message


def test_keys_of_a_set_that_are_for_something_else_are_skipped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = folder / "registry" / "jwks.json"
    [usable] = json.loads(file.read_bytes())["keys"]
    other = {**json.loads(jwks([new_signing_key()[1]]))["keys"][0], "kid": usable["kid"]}
    extended = {**usable, "key_ops": ["verify"], "x5c": ["MIIB"], "x5t#S256": "AA", "exp": 1, "unknown": {}}
    content = {"keys": [*other_members(usable), extended, usable, other], "issuer": "a member of others"}
    file.write_text(json.dumps(content), encoding="utf-8")
    with caplog.at_level("INFO"):
        assert verifier(folder).verify(issue(folder)).subject == "ana"
    for part in ("keys[0]: kty is 'RSA', not 'OKP'", "keys[5]: use is 'enc', not 'sig'", "keys[8]: has no kid"):
        assert part in caplog.text


def test_a_set_without_a_usable_key_says_why_each_was_skipped(folder: Path) -> None:
    file = folder / "registry" / "jwks.json"
    [usable] = json.loads(file.read_bytes())["keys"]
    for member in other_members(usable):
        file.write_text(json.dumps({"keys": [member]}), encoding="utf-8")
        with pytest.raises(FailedPrecondition, match=r"no Ed25519 key that can verify tokens \(keys\[0\]: ") as caught:
            verifier(folder)
        assert (caught.value.reason, caught.value.field) == ("BAD_JWKS_FILE", "identity")


def test_keys_rotate_beside_other_keys(folder: Path) -> None:
    known = folder / "signing" / "jwks.json"
    [usable] = json.loads(known.read_bytes())["keys"]
    known.write_text(json.dumps({"keys": [*other_members(usable), usable]}), encoding="utf-8")
    old = issue(folder)
    rotate_signing_key(folder)
    assert verifier(folder).verify(old).subject == verifier(folder).verify(issue(folder)).subject == "ana"


def is_refused(verify: TokenVerifier, token: str) -> Callable[[], bool]:
    def check() -> bool:
        try:
            verify.verify(token)
        except Unauthenticated:
            return True
        return False

    return check


def test_keys_rotate_without_a_restart(folder: Path) -> None:
    verify, old = verifier(folder), issue(folder)
    verify.verify(old)
    rotate_signing_key(folder)
    new = issue(folder)
    wait_until(lambda: not is_refused(verify, new)(), "the new key")
    verify.verify(old)  # until it expires
    rotate_signing_key(folder)
    wait_until(is_refused(verify, old), "the oldest key to be dropped")
    rotate_signing_key(folder, revoke=True)
    wait_until(is_refused(verify, new), "all tokens made before to be refused")
    verify.verify(issue(folder))


def test_a_broken_key_file_keeps_the_keys_of_before(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    verify, token = verifier(folder), issue(folder)
    (folder / "registry" / "jwks.json").write_text("{", encoding="utf-8")
    wait_until(lambda: verify.verify(token) is not None and "keeping the previous" in caplog.text, "the log to say so")
    assert verify.verify(token).subject == "ana"


@pytest.mark.parametrize(
    "content",
    ["{", "{}", "[]", '{"keys": []}', '{"keys": {}}', '{"keys": [{"kty": "RSA", "crv": ""}]}', "[" * 100_000],
    ids=["cut off", "empty", "a list", "no keys", "an object", "other keys", "deep"],
)
def test_a_server_does_not_start_without_keys(folder: Path, content: str) -> None:
    (folder / "registry" / "jwks.json").write_text(content, encoding="utf-8")
    with pytest.raises(FailedPrecondition) as caught:
        verifier(folder)
    assert (caught.value.reason, caught.value.field) == ("BAD_JWKS_FILE", "identity")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lifetime_s": 0}, "BAD_LIFETIME"),
        ({"lifetime_s": 25 * 3600}, "BAD_LIFETIME"),
        ({"tenant": "A B"}, "BAD_NAME"),
        ({"subject": "service:x"}, "BAD_SUBJECT"),
        ({"subject": "a\nb"}, "BAD_SUBJECT"),
    ],
)
def test_a_wrong_token_is_not_made(folder: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        issue(folder, **changes)
    assert caught.value.reason == reason


def test_a_missing_signing_key_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="deepseek certs init") as caught:
        issue(tmp_path)
    assert caught.value.reason == "BAD_SIGNING_KEY"


def test_private_keys_are_the_owners_alone_and_public_ones_hold_none(folder: Path) -> None:
    for key in folder.rglob("*key.pem"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600, key
    for jwk in json.loads((folder / "registry" / "jwks.json").read_bytes())["keys"]:
        assert "d" not in jwk
