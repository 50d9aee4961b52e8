"""Parses and generates all resource names and ids.

A variable or field `<x>_id` is one path segment; `<x>_name` is a whole path such as `datasets/d/versions/3`.
"""

import re
import secrets
from functools import cache

from common.errors import InvalidArgument

DEFAULT_TENANT = "default"
"""Tenant of every caller of a service that runs without authentication."""

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def check_id(value: str, *, field: str) -> str:
    """Checks an id and returns it.

    A valid id has 1 to 63 characters from a-z, 0-9, `.`, `_` and `-`, and starts with a letter or digit.

    Args:
        value: Id sent by a caller.
        field: Path of the request field that contains the id, for the error.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    if not _ID.fullmatch(value):
        raise InvalidArgument(
            "BAD_NAME",
            f"{value[:80]!r} is not an id; use 1 to 63 characters from a-z, 0-9, '.', '_' and '-', "
            "starting with a letter or digit",
            field=field,
        )
    return value


def parse(name: str, pattern: str, *, field: str = "name") -> tuple[str, ...]:
    """Returns the ids in a resource name.

    >>> parse("datasets/d/versions/3", "datasets/{}/versions/{}")
    ('d', '3')

    Args:
        name: Name sent by a caller.
        pattern: The expected form, in which each `{}` stands for an id.
        field: Path of the request field that contains the name, for the error.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    match = _expression(pattern).fullmatch(name)
    if not match:
        raise InvalidArgument(
            "BAD_NAME", f"{name[:200]!r} is not of the form {pattern.format(*_placeholders(pattern))}", field=field
        )
    return match.groups()


def new_id() -> str:
    """Returns a new id of 16 random characters. With 80 random bits, it is unique in practice."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(16))


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(
        "".join(f"({_ID.pattern})" if part == "{}" else re.escape(part) for part in re.split(r"(\{\})", pattern))
    )


def _placeholders(pattern: str) -> list[str]:
    return ["<id>"] * pattern.count("{}")
