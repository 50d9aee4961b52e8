"""Page tokens and sizes."""

import base64

import pytest

from common.database import decode_page_token, encode_page_token, page_size
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
