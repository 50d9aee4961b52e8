"""Pagination (AIP-158): a page token holds the sort key of the last row of the previous page.

A page therefore continues with the next row in that order, even if rows were added or deleted in the meantime. A token
is not secret: tenants are separated by the query, not by the token.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from common.errors import InvalidArgument

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
_MAX_TOKEN_CHARACTERS = 4096

RowT = TypeVar("RowT")


@dataclass(frozen=True)
class PageRequest:
    """The page that a caller requests.

    Attributes:
        size: Maximum number of rows; 0 means 50, and values over 1000 mean 1000.
        token: Token that came with the previous page; empty for the first page.
    """

    size: int = 0
    token: str = ""


def fetch_page(
    session: Session,
    query: Select[RowT],
    key: Sequence[InstrumentedAttribute[Any]],
    page: PageRequest,
    *,
    scope: str = "",
    descending: bool = False,
) -> tuple[list[RowT], str]:
    """Returns one page of a query and the token of the next page, which is empty after the last page.

    Args:
        session: Transaction in which to read.
        query: Query that selects all rows, without an order.
        key: Columns to sort by, which together are unique within the query.
        page: Page to return.
        scope: Name of the list, e.g. `models/m/versions`. It becomes part of the token, so that tokens of other lists
            are rejected. May be empty if no other list has a key of these types.
        descending: Whether the greatest key comes first.

    Raises:
        InvalidArgument: BAD_PAGE_TOKEN (field `page_token`) or BAD_VALUE (field `page_size`).
    """
    limit = page_size(page.size)
    scopes = [scope] if scope else []
    types = [*(str for _ in scopes), *(column.type.python_type for column in key)]
    if parts := decode_page_token(page.token, types):
        if parts[: len(scopes)] != scopes:
            raise InvalidArgument("BAD_PAGE_TOKEN", "the page token belongs to another list", field="page_token")
        query = query.where(_follows(key, parts[len(scopes) :], descending=descending))
    query = query.order_by(*(column.desc() if descending else column for column in key))
    rows = list(session.scalars(query.limit(limit + 1)))
    if len(rows) <= limit:
        return rows, ""
    return rows[:limit], encode_page_token([*scopes, *(getattr(rows[limit - 1], column.key) for column in key)])


def encode_page_token(key: Sequence[str | int]) -> str:
    """Returns the token of the page that starts after the row with this sort key."""
    text = json.dumps(list(key), separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_page_token(token: str, types: Sequence[type[str] | type[int]] = ()) -> list[str | int]:
    """Returns the sort key that a token holds.

    Args:
        token: Token sent by a client; empty for the first page.
        types: Types that the parts of the key must have; empty means no check.

    Returns:
        The key; empty for the first page.

    Raises:
        InvalidArgument: BAD_PAGE_TOKEN (field `page_token`) if the token was not issued for this list.
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
        message = "the page token was not issued for this list; pass next_page_token of the previous page, or nothing"
        raise InvalidArgument("BAD_PAGE_TOKEN", message, field="page_token") from error
    return key


def page_size(requested: int) -> int:
    """Returns the number of rows per page: 50 if the caller requests 0, and at most 1000.

    Raises:
        InvalidArgument: BAD_VALUE (field `page_size`) if the requested number is negative.
    """
    if requested < 0:
        message = f"the page size is {requested}; it must not be negative"
        raise InvalidArgument("BAD_VALUE", message, field="page_size")
    return min(requested, MAX_PAGE_SIZE) if requested else DEFAULT_PAGE_SIZE


def _follows(
    key: Sequence[InstrumentedAttribute[Any]], last: Sequence[str | int], *, descending: bool
) -> ColumnElement[bool]:
    column, bound = (key[0], last[0]) if len(key) == 1 else (tuple_(*key), tuple_(*last))
    return column < bound if descending else column > bound


def _is_key_part(part: object) -> bool:
    if isinstance(part, str):
        # Text in PostgreSQL cannot contain NUL, and a lone surrogate cannot be encoded.
        return "\0" not in part and part.isprintable()
    return isinstance(part, int) and not isinstance(part, bool) and -(2**63) <= part < 2**63
