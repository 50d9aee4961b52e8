import sys

import pytest

from common.errors import InvalidArgument
from deepseek.data import canonical_json


def parse(data: bytes) -> canonical_json.Node:
    return canonical_json.parse(data, reason="BAD", document="doc")


def test_equal_values_give_equal_bytes() -> None:
    assert canonical_json.dumps({"b": 1, "a": [True, None]}) == canonical_json.dumps({"a": [True, None], "b": 1})


def test_non_finite_numbers_are_not_written() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json.dumps({"a": float("nan")})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b"[" * 100_000,
        b"1" * 10_000,
        b'{"a":1} x',
    ],
    ids=["empty", "not-utf8", "cut-off", "repeated-key", "nan", "infinity", "deep", "huge-integer", "trailing"],
)
def test_anything_but_strict_json_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(data)
    assert caught.value.reason == "BAD"
    assert caught.value.field == "doc"


def test_an_error_names_the_path() -> None:
    node = parse(b'{"list":[{"n":-1}]}').object("list")["list"].array()[0].object("n")["n"]
    with pytest.raises(InvalidArgument) as caught:
        node.integer()
    assert caught.value.field == "doc.list[0].n"


def test_unknown_and_missing_keys_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="unknown key 'b'"):
        parse(b'{"a":1,"b":2}').object("a")
    with pytest.raises(InvalidArgument, match="lacks the key 'b'"):
        parse(b'{"a":1}').object("a", "b")


def test_types_are_not_confused() -> None:
    with pytest.raises(InvalidArgument, match="not an integer"):
        parse(b"true").integer()
    with pytest.raises(InvalidArgument, match="not a number"):
        parse(b"true").number()
    with pytest.raises(InvalidArgument, match="not a finite number"):
        parse(b"1e999").number()
    with pytest.raises(InvalidArgument, match="out of range"):
        parse(b"9223372036854775808").integer()
    with pytest.raises(InvalidArgument, match="not valid Unicode"):
        parse(b'"\\ud800"').string()
    with pytest.raises(InvalidArgument, match="not finite"):
        parse(b'{"a":[1e999]}').json_object()


def test_a_document_that_is_too_large_is_not_parsed() -> None:
    with pytest.raises(InvalidArgument, match="at most"):
        parse(b" " * (canonical_json.MAX_BYTES + 1))


def test_an_object_that_could_be_parsed_is_refused_where_the_stack_is_too_deep_to_write_it() -> None:
    num_levels = sys.getrecursionlimit() - 250
    node = parse(b'{"a":' + b"[" * num_levels + b"]" * num_levels + b"}")

    def take(num_frames: int) -> dict[str, object]:
        return take(num_frames - 1) if num_frames else node.json_object()

    with pytest.raises(InvalidArgument, match="nested too deeply"):
        take(220)
