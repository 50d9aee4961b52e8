"""Arrays as safetensors bytes, hostile bytes included."""

import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidArgument
from deepseek.federated.arrays import all_finite, from_bytes, max_bytes, num_values, shapes_of, to_bytes

LIKE = {"a": (2, 3), "b": (), "c": (0, 4)}
ARRAYS = {
    "c": np.zeros((0, 4), np.float32),
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.float32(7).reshape(()),
}


def _file(header: Any, data: bytes = bytes(28)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


GOOD = {"a": _entry([2, 3], 0, 24), "b": _entry([], 24, 28), "c": _entry([0, 4], 28, 28)}


def test_arrays_come_back_sorted_by_name() -> None:
    read = from_bytes(to_bytes(ARRAYS), LIKE)
    assert list(read) == ["a", "b", "c"]
    for name, array in read.items():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, ARRAYS[name], strict=True)


def test_equal_arrays_give_equal_bytes() -> None:
    transposed = np.asfortranarray(ARRAYS["a"])
    assert to_bytes({**dict(reversed(ARRAYS.items())), "a": transposed}) == to_bytes(ARRAYS)


def test_values_that_are_not_finite_are_read_and_found() -> None:
    for value in (np.nan, np.inf, -np.inf):
        read = from_bytes(to_bytes({"w": np.float32([0, value])}))
        assert not all_finite(read)
    assert all_finite(ARRAYS)


def test_a_handwritten_file_is_read() -> None:
    assert from_bytes(_file(GOOD), LIKE)["a"].shape == (2, 3)
    assert from_bytes(_file({**GOOD, "__metadata__": {"made": "by hand"}}), LIKE)["b"] == 0


@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4", "int32", "bool"])
def test_other_dtypes_are_not_written(dtype: str) -> None:
    with pytest.raises(InvalidArgument, match=r"layer\.w has the dtype") as caught:
        to_bytes({"layer.w": np.zeros(2, dtype)})  # type: ignore[dict-item]
    assert (caught.value.reason, caught.value.field) == ("BAD_MODEL_STATE", "layer.w")


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "shorter than a length": b"\0" * 7,
    "nothing but a length": struct.pack("<Q", 0),
    "header longer than the file": struct.pack("<Q", 1 << 20) + b"{}",
    "header of 2^64 - 1 bytes": struct.pack("<Q", (1 << 64) - 1) + b"{}",
    "header that is not JSON": _file(b"{" * 100),
    "header that is a list": _file([]),
    "header in UTF-16": _file(json.dumps(GOOD).encode("utf-16")),
    "deeply nested header": _file(b"[" * 2000),
    "repeated name": _file(json.dumps(GOOD).encode()[:-1] + b', "b": {"dtype":"F32","shape":[],"data_offsets":[0,4]}}'),
    "overlapping arrays": _file({**GOOD, "b": _entry([], 20, 24)}, bytes(24)),
    "gap between arrays": _file({**GOOD, "b": _entry([], 28, 32), "c": _entry([0, 4], 32, 32)}, bytes(32)),
    "data after the arrays": _file(GOOD, bytes(32)),
    "data that end too early": _file(GOOD, bytes(24)),
    "offsets beyond the end": _file({**GOOD, "b": _entry([], 1 << 40, (1 << 40) + 4)}),
    "offsets that run backwards": _file({**GOOD, "a": _entry([2, 3], 24, 0)}),
    "negative offsets": _file({**GOOD, "a": _entry([2, 3], -24, 0)}),
    "more bytes than the shape": _file(
        {"a": _entry([2, 3], 0, 28), "b": _entry([], 28, 32), "c": GOOD["c"]}, bytes(32)
    ),
    "float64": _file({**GOOD, "a": _entry([2, 3], 0, 48, "F64"), "b": _entry([], 48, 52)}, bytes(52)),
    "float16": _file({**GOOD, "a": _entry([2, 3], 0, 12, "F16"), "b": _entry([], 12, 16)}, bytes(16)),
    "big-endian dtype": _file({**GOOD, "a": _entry([2, 3], 0, 24, ">f4")}),
    "transposed shape": _file({**GOOD, "a": _entry([3, 2], 0, 24)}),
    "flat shape": _file({**GOOD, "a": _entry([6], 0, 24)}),
    "huge shape": _file({**GOOD, "a": _entry([1 << 40, 1 << 40], 0, 24)}),
    "negative shape": _file({**GOOD, "a": _entry([-2, -3], 0, 24)}),
    "shape of floats": _file({**GOOD, "a": {"dtype": "F32", "shape": [2.0, 3.0], "data_offsets": [0, 24]}}),
    "entry without a shape": _file({**GOOD, "a": {"dtype": "F32", "data_offsets": [0, 24]}}),
    "missing array": _file({"a": GOOD["a"]}, bytes(24)),
    "unknown array": _file({**GOOD, "d": _entry([], 28, 32)}, bytes(32)),
    "name that differs in case": _file({"A": GOOD["a"], "b": GOOD["b"], "c": GOOD["c"]}),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_bytes(data, LIKE, field="update")
    assert caught.value.reason == "BAD_UPDATE"
    assert caught.value.field.startswith("update")
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("num_bytes", [100_000, 100_000_000])
def test_a_long_header_is_refused_before_it_is_read(num_bytes: int) -> None:
    header = json.dumps({**GOOD, "__metadata__": {"x": "y"}}).encode()
    data = _file(header + b" " * (num_bytes - len(header)))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArgument, match=r"has a header of|bytes; from 8 to"):
            from_bytes(data, LIKE)
        assert tracemalloc.get_traced_memory()[1] < 50_000
    finally:
        tracemalloc.stop()


def test_a_large_file_is_refused_before_it_is_read() -> None:
    data = _file({"a": _entry([1000, 1000], 0, 4_000_000)}, bytes(4_000_000))
    with pytest.raises(
        InvalidArgument, match=f"has {len(data)} bytes; from 8 to {max_bytes({'a': (10,)})} are accepted"
    ):
        from_bytes(data, {"a": (10,)})


@given(st.binary(max_size=300))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    for bytes_ in (data, _file(data)):
        for like in (LIKE, None):
            try:
                read = from_bytes(bytes_, like)
            except InvalidArgument:
                continue
            assert like is None or shapes_of(read) == like


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_changes_only_values(position: int, value: int) -> None:
    data = bytearray(to_bytes(ARRAYS))
    data[position % len(data)] = value
    try:
        read = from_bytes(bytes(data), LIKE)
    except InvalidArgument:
        return
    assert shapes_of(read) == LIKE


@given(
    st.dictionaries(st.text(min_size=1, max_size=50), st.lists(st.integers(0, 5), max_size=4).map(tuple), max_size=8)
)
def test_files_of_honest_nodes_never_exceed_the_limit(shapes: dict[str, tuple[int, ...]]) -> None:
    shapes.pop("__metadata__", None)
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    data = to_bytes(arrays)
    assert len(data) <= max_bytes(shapes)
    read = from_bytes(data, shapes)
    assert shapes_of(read) == dict(sorted(shapes.items()))
    assert sum(array.size for array in read.values()) == num_values(shapes)
