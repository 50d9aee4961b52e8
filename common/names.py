"""Resource names and ids: parsed and made in this one place.

An `<x>_id` is one segment, an `<x>_name` a path such as `datasets/d/versions/3`.
"""

import re
import secrets
from functools import cache

from common.errors import InvalidArgument

DEFAULT_TENANT = "default"
"""Whose data everyone sees as long as callers are not told apart."""

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def check_id(value: str, *, field: str) -> str:
    """Returns an id that is well formed: 1 to 63 of a-z, 0-9, `.`, `_`, `-`, starting with a letter or digit.

    Args:
        value: What a caller sent.
        field: Path of the request's field, for the error.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    if not _ID.fullmatch(value):
        raise InvalidArgument(
            "BAD_NAME",
            f"{value[:80]!r} is not an id: use 1 to 63 of a-z, 0-9, '.', '_', '-', starting with a letter or digit",
            field=field,
        )
    return value


def parse(name: str, pattern: str, *, field: str = "name") -> tuple[str, ...]:
    """Takes a resource name apart.

    >>> parse("datasets/d/versions/3", "datasets/{}/versions/{}")
    ('d', '3')

    Args:
        name: What a caller sent.
        pattern: The expected form; each `{}` stands for an id.
        field: Path of the request's field, for the error.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    match = _expression(pattern).fullmatch(name)
    if not match:
        raise InvalidArgument(
            "BAD_NAME", f"{name[:200]!r} is not of the form {pattern.format(*_holes(pattern))}", field=field
        )
    return match.groups()


def new_id() -> str:
    """Makes an id that nobody else has: 16 random characters, 80 bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(16))


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(
        "".join(f"({_ID.pattern})" if part == "{}" else re.escape(part) for part in re.split(r"(\{\})", pattern))
    )


def _holes(pattern: str) -> list[str]:
    return ["<id>"] * pattern.count("{}")
