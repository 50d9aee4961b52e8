"""Derivation of keys of marks."""

from typing import Any

import pytest

from common.errors import InvalidArgument
from deepseek.watermark.keys import derive_key

MASTER = bytes(range(32))


def test_keys_differ_by_tenant_modality_epoch_and_purpose() -> None:
    asked: list[dict[str, Any]] = [
        {"tenant": "a", "modality": "text", "epoch": 0},
        {"tenant": "b", "modality": "text", "epoch": 0},
        {"tenant": "a", "modality": "image", "epoch": 0},
        {"tenant": "a", "modality": "text", "epoch": 1},
    ]
    secrets = [derive_key(MASTER, **one).secret for one in asked]
    secrets += [derive_key(bytes(32), **asked[0]).secret]
    assert len(set(secrets)) == len(secrets)
    key = derive_key(MASTER, **asked[0])
    assert key.secret == secrets[0]
    assert len({key.secret, key.subkey("x"), key.subkey("y")}) == 3
    assert key.secret.hex() not in repr(key)
    assert str(key.secret) not in repr(key)


def test_a_key_equals_that_of_rfc_5869() -> None:
    # Two rounds of HMAC, as the RFC defines it.
    import hashlib
    import hmac

    extracted = hmac.digest(bytes(32), MASTER, hashlib.sha256)
    info = b"deepseek-mesh/watermark/lab/text/3"
    assert derive_key(MASTER, tenant="lab", modality="text", epoch=3).secret == hmac.digest(
        extracted, info + b"\x01", hashlib.sha256
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"master": b"short"}, "BAD_MASTER_KEY"),
        ({"tenant": "../x"}, "BAD_NAME"),
        ({"modality": "smell"}, "UNKNOWN_MODALITY"),
        ({"epoch": -1}, "BAD_VALUE"),
        ({"epoch": 0.5}, "BAD_VALUE"),
    ],
)
def test_invalid_arguments_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        derive_key(**{"master": MASTER, "tenant": "lab", "modality": "text", "epoch": 0, **changes})
    assert caught.value.reason == reason
    assert caught.value.field == next(iter(changes))
