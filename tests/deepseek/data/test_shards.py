import hashlib
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import DataLoss, InvalidArgument
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.data.shards import check_sample, encode_shard, read_shard, sample_sha256
from tests.deepseek.data.samples import FIELDS, question_sample, sound_file
from tests.harness.images import image_file

ALL_FIELDS = (
    Field("image", "image"),
    Field("audio", "audio"),
    Field("text", "text"),
    Field("label", "label", labels=("a", "b")),
    Field("integer", "integer"),
    Field("number", "number"),
    Field("bytes", "bytes", repeated=True),
)
VALUES: dict[str, Any] = {
    "image": image_file(),
    "audio": sound_file(),
    "text": "grüß \0 dich",
    "label": "b",
    "integer": -(1 << 63),
    "number": 1e-300,
    "bytes": [b"", b"\xff"],
}


@pytest.mark.parametrize("from_file", [False, True])
def test_samples_are_read_as_they_were_written(tmp_path: Path, from_file: bool) -> None:
    samples = [Sample(f"k{i}", "test", VALUES | {"integer": i}) for i in range(3)]
    data = encode_shard(samples, ALL_FIELDS)
    (tmp_path / "shard").write_bytes(data)
    assert list(read_shard(tmp_path / "shard" if from_file else data, ALL_FIELDS, verify=True)) == samples


def test_equal_samples_give_equal_bytes() -> None:
    samples = [question_sample(i) for i in range(4)]
    assert encode_shard(samples, FIELDS) == encode_shard(list(samples), FIELDS)


def test_fields_named_like_the_system_columns_are_possible() -> None:
    fields = (Field("key", "text"), Field("sha256", "text"), Field("split", "text"))
    sample = Sample("k", "train", {"key": "1", "sha256": "2", "split": "3"})
    assert list(read_shard(encode_shard([sample], fields), fields, verify=True)) == [sample]


@pytest.mark.parametrize("start", [0, 1, 255, 256, 257, 599, 600, 700])
def test_reading_starts_at_any_row(start: int) -> None:
    fields = (Field("n", "integer"),)
    data = encode_shard([Sample(f"k{i}", "train", {"n": i}) for i in range(600)], fields)
    assert [sample.values["n"] for sample in read_shard(data, fields, start=start)] == list(range(start, 600))


def test_row_groups_are_small_and_images_are_not_compressed_again() -> None:
    samples = [question_sample(i) for i in range(300)]
    metadata = pq.ParquetFile(io.BytesIO(encode_shard(samples, FIELDS))).metadata
    assert metadata.num_row_groups == 2
    columns = {metadata.row_group(0).column(i).path_in_schema: metadata.row_group(0).column(i) for i in range(6)}
    assert columns["image"].compression == "UNCOMPRESSED"
    assert columns["question.list.element"].compression == "ZSTD"
    assert not any(column.is_stats_set for column in columns.values())


def test_the_digest_is_as_documented() -> None:
    def item(data: bytes) -> bytes:
        return len(data).to_bytes(8, "big") + data

    fields = (Field("t", "text", repeated=True), Field("n", "number"), Field("i", "integer"))
    sample = Sample("kéy", "train", {"t": ["ä", ""], "n": 1.0, "i": -2})
    expected = (
        b"deepseek.sample.v1\0" + item("kéy".encode()) + item(b"train") + (3).to_bytes(8, "big")
        + item(b"t") + item(b"text") + (2).to_bytes(8, "big") + item("ä".encode()) + item(b"")
        + item(b"n") + item(b"number") + (1).to_bytes(8, "big") + item(bytes.fromhex("3ff0000000000000"))
        + item(b"i") + item(b"integer") + (1).to_bytes(8, "big") + item(b"\xff" * 7 + b"\xfe")
    )  # fmt: skip
    assert sample_sha256(sample, fields) == hashlib.sha256(expected).hexdigest()


def test_the_documented_test_vector_holds() -> None:
    digest = sample_sha256(Sample("k", "train", {"n": 1}), [Field("n", "integer")])
    assert digest in Path(__file__).parents[3].joinpath("docs/data.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("change", ["key", "split", "value", "moved"])
def test_every_part_of_a_sample_changes_its_digest(change: str) -> None:
    fields = (Field("a", "text", repeated=True), Field("b", "text", repeated=True))
    values: dict[str, Any] = {"a": ["x", "y"], "b": ["z", "w"]}
    sample = Sample("k", "train", values)
    other = {
        "key": Sample("l", "train", values),
        "split": Sample("k", "test", values),
        "value": Sample("k", "train", {"a": ["x", "y"], "b": ["z", "v"]}),
        "moved": Sample("k", "train", {"a": ["xy", ""], "b": ["z", "w"]}),
    }[change]
    assert sample_sha256(sample, fields) != sample_sha256(other, fields)


def test_a_good_sample_passes() -> None:
    check_sample(Sample("k", "train", VALUES), ALL_FIELDS)
    check_sample(question_sample(num_questions=0), FIELDS)


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"image": image_file()[:-20]}, "DAMAGED_IMAGE", "image"),
        ({"image": "path.png"}, "WRONG_TYPE", "image"),
        ({"image": None}, "WRONG_TYPE", "image"),
        ({"audio": sound_file()[:20]}, "DAMAGED_AUDIO", "audio"),
        ({"text": b"bytes"}, "WRONG_TYPE", "text"),
        ({"text": "\ud800"}, "BAD_TEXT", "text"),
        ({"label": "c"}, "UNKNOWN_LABEL", "label"),
        ({"integer": 1.0}, "WRONG_TYPE", "integer"),
        ({"integer": True}, "WRONG_TYPE", "integer"),
        ({"integer": 1 << 63}, "WRONG_TYPE", "integer"),
        ({"number": float("nan")}, "WRONG_TYPE", "number"),
        ({"number": float("-inf")}, "WRONG_TYPE", "number"),
        ({"number": "1"}, "WRONG_TYPE", "number"),
        ({"number": 10**400}, "WRONG_TYPE", "number"),
        ({"bytes": b"not a list"}, "WRONG_TYPE", "bytes"),
        ({"bytes": [b"", "x"]}, "WRONG_TYPE", "bytes"),
        ({"caption": "x"}, "UNKNOWN_FIELD", "caption"),
    ],
)
def test_a_bad_value_is_refused_with_its_path(changes: dict[str, Any], reason: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_sample(Sample("k/1", "train", VALUES | changes), ALL_FIELDS)
    assert caught.value.reason == reason
    assert caught.value.field == f"samples[k/1].{field}"


def test_a_missing_field_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_sample(Sample("k", "train", {"image": image_file(), "question": []}), FIELDS)
    assert (caught.value.reason, caught.value.field) == ("MISSING_FIELD", "samples[k].answer")


def test_repeated_fields_must_be_equally_long() -> None:
    sample = question_sample(num_questions=2)
    values = dict(sample.values) | {"answer": ["no"]}
    with pytest.raises(InvalidArgument) as caught:
        check_sample(Sample("k", "train", values), FIELDS)
    assert caught.value.reason == "LENGTH_MISMATCH"


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("", "the key '' has 0 characters"),
        ("x" * 256, "has 256 characters; use 1 to 255"),
        ("a\nb", r"the key 'a\nb' contains U+000A, a control character"),
        ("a\0b", "U+0000"),
        ("\x85", "U+0085"),
        ("\ud800", "U+D800, a lone surrogate"),
        ("tab\t", "U+0009"),
        ("a\u2028", "U+2028, a line separator"),
        ("gnp\u202ea.exe", r"the key 'gnp\u202ea.exe' contains U+202E, a bidirectional control"),
        ("\u2066a", "U+2066"),
    ],
)
def test_a_bad_key_is_refused(key: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_sample(Sample(key, "train", VALUES), ALL_FIELDS)
    assert caught.value.reason == "BAD_KEY"
    assert problem in caught.value.message
    caught.value.field.encode("utf-8")


@pytest.mark.parametrize(
    "key",
    [
        "Screenshot 2026-01-02 at 3.04.05\u202fPM.png",
        "a\u00a0b\u3000c",
        "\U0001f469\u200d\U0001f52c \U0001f3f4\U000e0067\U000e007f.png",
        "می\u200cخواهم\u200f.png",
        " leading and trailing ",
        ".hidden",
        "new \U0001fae9 and private \uf8ff",
        "cafe\u0301",
        "x" * 255,
    ],
)
def test_a_key_may_be_any_file_name(key: str) -> None:
    sample = Sample(key, "train", VALUES)
    check_sample(sample, ALL_FIELDS)
    assert [one.key for one in read_shard(encode_shard([sample], ALL_FIELDS), ALL_FIELDS, verify=True)] == [key]


@pytest.mark.parametrize("labels", [("thé", "no"), ("the\u0301", "no")])
@pytest.mark.parametrize("value", ["thé", "the\u0301"])
def test_a_label_is_known_in_either_spelling(labels: tuple[str, ...], value: str) -> None:
    check_sample(Sample("k", "train", {"answer": value}), [Field("answer", "label", labels=labels)])


@pytest.mark.parametrize("split", ["", "../x", "Train", "x" * 64, "a\n"])
def test_a_bad_split_is_refused(split: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_sample(Sample("k", split, VALUES), ALL_FIELDS)
    assert caught.value.reason == "BAD_SPLIT"


DATA = encode_shard([question_sample(i) for i in range(3)], FIELDS)


@pytest.mark.parametrize("data", [b"", b"PAR1", DATA[:-5], DATA[:100], DATA[100:]])
def test_a_truncated_shard_is_data_loss(data: bytes) -> None:
    with pytest.raises(DataLoss) as caught:
        list(read_shard(data, FIELDS))
    assert caught.value.reason == "BLOB_DAMAGED"


def test_a_shard_of_another_schema_is_data_loss() -> None:
    with pytest.raises(DataLoss):
        list(read_shard(DATA, FIELDS[:2]))


def test_a_shard_with_a_changed_value_is_data_loss() -> None:
    table = pq.read_table(io.BytesIO(DATA))
    rows = table.to_pylist()
    rows[0]["image"], rows[1]["image"] = rows[1]["image"], rows[0]["image"]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, table.schema), sink)
    assert len(list(read_shard(sink.getvalue(), FIELDS))) == 3
    with pytest.raises(DataLoss, match="does not match its digest"):
        list(read_shard(sink.getvalue(), FIELDS, verify=True))


def test_a_shard_with_a_null_in_a_list_is_data_loss() -> None:
    fields = [Field("words", "text", repeated=True)]
    table = pq.read_table(io.BytesIO(encode_shard([Sample("k", "train", {"words": ["a", "b"]})], fields)))
    sink = io.BytesIO()
    pq.write_table(table.set_column(3, table.schema.field(3), pa.array([["a", None]], table.schema.types[3])), sink)
    for verify in (False, True):
        with pytest.raises(DataLoss, match="value is missing"):
            list(read_shard(sink.getvalue(), fields, verify=verify))


def test_a_shard_with_a_column_name_that_is_not_unicode_is_data_loss() -> None:
    with pytest.raises(DataLoss, match="not a complete Parquet file"):
        list(read_shard(DATA.replace(b"question", b"questi\xccn"), FIELDS))


def test_damage_anywhere_in_a_shard_never_crashes_the_reader() -> None:
    for position in range(0, len(DATA), 37):
        data = bytearray(DATA)
        data[position] ^= 0x55
        try:
            for sample in read_shard(bytes(data), FIELDS, verify=True):
                assert isinstance(sample, Sample)
        except DataLoss:
            pass


def test_a_large_value_is_kept(tmp_path: Path) -> None:
    fields = (Field("data", "bytes"),)
    sample = Sample("k", "train", {"data": bytes(8 << 20)})
    path = tmp_path / "shard"
    path.write_bytes(encode_shard([sample], fields))
    assert list(read_shard(path, fields)) == [sample]


def test_the_error_of_an_unknown_label_shows_only_a_few_labels() -> None:
    labels = (*(f"label{i:03}" for i in range(100)), "x" * 10_000)
    with pytest.raises(InvalidArgument, match=r"'c', .*label000, .*label009, … \[") as caught:
        check_sample(Sample("k", "train", {"label": "c"}), (Field("label", "label", labels=labels),))
    assert len(caught.value.message) < 300
