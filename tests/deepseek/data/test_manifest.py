import json
from typing import Any

import pytest

from common.errors import InvalidArgument
from deepseek.data.manifest import DatasetManifest, Field, Shard, check_schema
from tests.deepseek.data.samples import FIELDS

SHARD = Shard("ab" * 32, 10, 3)
MANIFEST = DatasetManifest(FIELDS, {"train": (SHARD, SHARD), "test": (Shard("cd" * 32, 9, 2),)})


def test_a_manifest_is_read_as_it_was_written() -> None:
    again = DatasetManifest.from_bytes(MANIFEST.to_bytes())
    assert again == MANIFEST
    assert again.to_bytes() == MANIFEST.to_bytes()


def test_equal_content_gives_equal_bytes() -> None:
    other = DatasetManifest(FIELDS, dict(reversed(MANIFEST.splits.items())))
    assert other.to_bytes() == MANIFEST.to_bytes()


def test_samples_are_counted() -> None:
    assert MANIFEST.num_samples() == 8
    assert MANIFEST.num_samples("train") == 6


def test_an_unknown_split_or_field_lists_the_known_ones() -> None:
    with pytest.raises(InvalidArgument, match="test, train"):
        MANIFEST.num_samples("validation")
    with pytest.raises(InvalidArgument, match="image, question, answer"):
        MANIFEST.field("caption")
    assert MANIFEST.field("answer") == FIELDS[2]


def _edited(**changes: Any) -> bytes:
    return json.dumps(json.loads(MANIFEST.to_bytes()) | changes).encode()


SHARD_JSON = {"sha256": "ab" * 32, "size_bytes": 1, "num_samples": 1}
FIELD_JSON = {"name": "a", "type": "text", "repeated": False, "labels": []}


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"\x00", ""),
        (b"[]", ""),
        (_edited(format=2), ".format"),
        (_edited(uri="s3://x"), ""),
        (_edited(fields=[]), ".fields"),
        (_edited(fields=[FIELD_JSON, FIELD_JSON]), ".fields[1].name"),
        (_edited(fields=[FIELD_JSON | {"name": "_key"}]), ".fields[0].name"),
        (_edited(fields=[FIELD_JSON | {"type": "video"}]), ".fields[0].type"),
        (_edited(fields=[FIELD_JSON | {"repeated": 1}]), ".fields[0].repeated"),
        (_edited(fields=[FIELD_JSON | {"labels": ["a"]}]), ".fields[0].labels"),
        (_edited(fields=[FIELD_JSON | {"type": "label"}]), ".fields[0].labels"),
        (_edited(splits={"../x": []}), ".splits.../x"),
        (_edited(splits={"a": [SHARD_JSON | {"sha256": "../../etc/passwd"}]}), ".splits.a[0].sha256"),
        (_edited(splits={"a": [SHARD_JSON | {"sha256": "AB" * 32}]}), ".splits.a[0].sha256"),
        (_edited(splits={"a": [SHARD_JSON | {"num_samples": 0}]}), ".splits.a[0].num_samples"),
        (_edited(splits={"a": [SHARD_JSON | {"size_bytes": 1e300}]}), ".splits.a[0].size_bytes"),
        (_edited(splits={str(i): [] for i in range(1000)}), ".splits"),
    ],
)
def test_a_hostile_manifest_is_refused_with_its_path(data: bytes, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        DatasetManifest.from_bytes(data)
    assert caught.value.reason == "BAD_MANIFEST"
    assert caught.value.field == "dataset_manifest" + field


@pytest.mark.parametrize(
    "field",
    [
        Field("Image", "image"),
        Field("", "image"),
        Field("a\n", "image"),
        Field("a", ""),
        Field("a", "label"),
        Field("a", "label", labels=("x", "x")),
        Field("a", "label", labels=("",)),
        Field("a", "label", labels=("\ud800",)),
        Field("a", "text", labels=("x",)),
    ],
)
def test_a_bad_schema_is_refused(field: Field) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_schema([field])
    assert caught.value.reason == "BAD_SCHEMA"
    assert caught.value.field.startswith("schema.fields[0].")


def test_two_spellings_of_a_label_are_refused_but_stay_readable() -> None:
    fields = (Field("answer", "label", labels=("thé", "no", "the\u0301")),)
    with pytest.raises(InvalidArgument, match="lists the label 'thé' in two Unicode forms") as caught:
        check_schema(fields)
    assert (caught.value.reason, caught.value.field) == ("BAD_SCHEMA", "schema.fields[0].labels")
    written = DatasetManifest(fields).to_bytes()
    assert DatasetManifest.from_bytes(written).fields == fields


def test_a_schema_needs_a_field() -> None:
    with pytest.raises(InvalidArgument, match="needs at least one"):
        check_schema([])


def test_one_label_too_many_is_found_among_as_many_as_a_field_may_have() -> None:
    labels = tuple(map(str, range(65_535)))
    check_schema([Field("a", "label", labels=labels)])
    with pytest.raises(InvalidArgument, match="lists the label '40000' twice") as caught:
        check_schema([Field("a", "label", labels=(*labels, "40000"))])
    assert (caught.value.reason, caught.value.field) == ("BAD_SCHEMA", "schema.fields[0].labels")
