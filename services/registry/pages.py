"""Keyset pages: a page starts after the key of the last row of the one before, so rows added meanwhile shift nothing.

A token carries what it pages over and the last key; one list's token is refused by another.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from common.database import decode_page_token, encode_page_token, page_size
from common.errors import InvalidArgument

RowT = TypeVar("RowT")


@dataclass(frozen=True)
class PageRequest:
    """Which page a caller wants.

    Attributes:
        size: At most this many rows; 0 means the default.
        token: What came with the page before; empty for the first.
    """

    size: int = 0
    token: str = ""


def fetch_page(
    session: Session,
    query: Select[RowT],
    key: InstrumentedAttribute[Any],
    page: PageRequest,
    *,
    scope: str,
    descending: bool = False,
) -> tuple[list[RowT], str]:
    """One page of `query`, ordered by `key`.

    Args:
        session: The transaction to read in.
        query: Everything that is paged over, unordered.
        key: Column that is unique within the query; the order of the pages.
        page: The page that is wanted.
        scope: What is paged over, e.g. `models/m/versions`.
        descending: Whether the greatest key comes first.

    Returns:
        The rows, and the token of the next page (empty after the last).

    Raises:
        InvalidArgument: BAD_PAGE_TOKEN or BAD_VALUE.
    """
    limit = page_size(page.size)
    if page.token:
        token_scope, last = decode_page_token(page.token, (str, key.type.python_type))
        if token_scope != scope:
            raise InvalidArgument("BAD_PAGE_TOKEN", "the page token belongs to another list", field="page_token")
        query = query.where(key < last if descending else key > last)
    rows = list(session.scalars(query.order_by(key.desc() if descending else key).limit(limit + 1)))
    if len(rows) <= limit:
        return rows, ""
    return rows[:limit], encode_page_token([scope, getattr(rows[limit - 1], key.key)])
