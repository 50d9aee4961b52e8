"""Pagination (AIP-158): a page token is the sort key of the last row of the page before.

Pages continue after that row whatever was inserted or deleted meanwhile. A token is not secret: tenants are separated
by the query, not by it.
"""

import base64
import binascii
import json
from collections.abc import Sequence

from common.errors import InvalidArgument

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
_MAX_TOKEN_CHARACTERS = 4096


def encode_page_token(key: Sequence[str | int]) -> str:
    """Returns the token of the page that starts after the row with this sort key."""
    text = json.dumps(list(key), separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_page_token(token: str, types: Sequence[type[str] | type[int]] = ()) -> list[str | int]:
    """Returns the sort key that a token holds.

    Args:
        token: What a client sent; empty for the first page.
        types: Types that the parts of the key must have, where given.

    Returns:
        The key; empty for the first page.

    Raises:
        InvalidArgument: BAD_PAGE_TOKEN (field `page_token`) if it is not a token of this listing.
    """
    if not token:
        return []
    try:
        if len(token) > _MAX_TOKEN_CHARACTERS:
            raise ValueError
        key = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        if not isinstance(key, list) or not key or not all(map(_is_key_part, key)):
            raise ValueError
        if types and [type(part) for part in key] != list(types):
            raise ValueError
    except (ValueError, binascii.Error, RecursionError) as error:
        message = "this is not a page token of this listing; pass next_page_token of the page before, or nothing"
        raise InvalidArgument("BAD_PAGE_TOKEN", message, field="page_token") from error
    return key


def page_size(requested: int) -> int:
    """Returns how many rows a page has: 50 if the caller does not care, at most 1000.

    Raises:
        InvalidArgument: BAD_VALUE (field `page_size`) if it is negative.
    """
    if requested < 0:
        raise InvalidArgument("BAD_VALUE", "a page size is not negative", field="page_size")
    return min(requested, MAX_PAGE_SIZE) if requested else DEFAULT_PAGE_SIZE


def _is_key_part(part: object) -> bool:
    if isinstance(part, str):
        # PostgreSQL has no NUL in text, and a lone surrogate cannot be encoded.
        return "\0" not in part and part.isprintable()
    return isinstance(part, int) and not isinstance(part, bool) and -(2**63) <= part < 2**63
