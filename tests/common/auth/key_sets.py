"""Key sets as other tools write them."""

from typing import Any


def other_members(usable: dict[str, Any]) -> list[Any]:
    """Members that other tools may put into a set beside one key."""
    return [
        {"kty": "RSA", "kid": "rsa", "use": "sig", "alg": "RS256", "n": "AQAB", "e": "AQAB", "x5c": ["MIIB"]},
        {"kty": "EC", "crv": "P-256", "kid": "ec", "x": "AA", "y": "AA"},
        {"kty": "oct", "k": "AA"},
        {"kty": "post-quantum", "kid": "new"},
        {"kty": "OKP", "crv": "X25519", "kid": "x", "x": usable["x"]},
        {**usable, "use": "enc"},
        {**usable, "alg": "ECDH-ES"},
        {**usable, "key_ops": ["sign"]},
        {member: value for member, value in usable.items() if member != "kid"},
        {**usable, "kid": 7},
        {**usable, "x": "AA"},
        {**usable, "x": None},
        {"kid": usable["kid"]},
        None,
        "a key",
        [],
    ]
