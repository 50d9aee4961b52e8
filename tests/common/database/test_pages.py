"""Pages, their tokens and sizes."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from common.database import Database, PageRequest, fetch_page
from common.database.pages import decode_page_token, encode_page_token, page_size
from common.database.requests import Request
from common.errors import InvalidArgument


@pytest.mark.parametrize("key", [[1, "a"], ["é/ü"], [0], [-(2**63), 2**63 - 1]])
def test_a_token_holds_its_key(key: list[str | int]) -> None:
    token = encode_page_token(key)

    assert decode_page_token(token) == key
    assert decode_page_token(token, [type(part) for part in key]) == key


def test_no_token_is_the_first_page() -> None:
    assert decode_page_token("") == []


def _token(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode()


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "nonsense",
        "é",
        "a" * 5000,
        _token(b"{}"),
        _token(b"[]"),
        _token(b"[null]"),
        _token(b"[true]"),
        _token(b"[1.5]"),
        _token(b"[[1]]"),
        _token(b'["\\u0000"]'),
        _token(b'["\\ud800"]'),
        _token(b"[9223372036854775808]"),
        _token(b"[" * 3000),
        _token(b"\xff\xfe"),
    ],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode_page_token(token)
    assert (caught.value.reason, caught.value.field) == ("BAD_PAGE_TOKEN", "page_token")


def test_a_token_of_another_listing_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        decode_page_token(encode_page_token(["a", 1]), (int, str))


def test_page_sizes_have_a_default_and_a_limit() -> None:
    assert [page_size(requested) for requested in (0, 1, 1000, 1001, 2**31 - 1)] == [50, 1, 1000, 1000, 1000]
    with pytest.raises(InvalidArgument) as caught:
        page_size(-1)
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "page_size")


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    database = Database(f"sqlite:///{tmp_path}/pages.db")
    database.migrate()
    with database.transaction() as session:
        # Ties in the first column, so that the second one decides.
        session.add_all(
            Request(tenant="t", method=method, request_id=f"r{i}", body_sha256="", response="", create_us=i // 2)
            for i, method in enumerate("abcde")
        )
        session.flush()
        yield session
    database.close()


def _pages(session: Session, *, descending: bool, scope: str = "") -> list[list[str]]:
    """Request ids of all pages of two rows."""
    pages, token = [], ""
    while True:
        key = (Request.create_us, Request.request_id)
        rows, token = fetch_page(
            session, select(Request), key, PageRequest(2, token), scope=scope, descending=descending
        )
        pages.append([row.request_id for row in rows])
        if not token:
            return pages


@pytest.mark.parametrize("scope", ["", "requests/t"])
def test_pages_follow_each_other_in_the_order_of_the_key(session: Session, scope: str) -> None:
    assert _pages(session, descending=False, scope=scope) == [["r0", "r1"], ["r2", "r3"], ["r4"]]
    assert _pages(session, descending=True, scope=scope) == [["r4", "r3"], ["r2", "r1"], ["r0"]]


def test_the_token_of_another_list_is_refused(session: Session) -> None:
    query, key = select(Request), (Request.request_id,)
    _, token = fetch_page(session, query, key, PageRequest(1), scope="one")
    for scope in ("other", ""):
        with pytest.raises(InvalidArgument) as caught:
            fetch_page(session, query, key, PageRequest(1, token), scope=scope)
        assert (caught.value.reason, caught.value.field) == ("BAD_PAGE_TOKEN", "page_token")
