"""Bad input: each invalid row is kept aside with its reason, and no valid row is lost."""

import datetime
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InvalidArgument
from deepseek.interchange.importing import Import
from deepseek.interchange.opening import Access, open_source
from deepseek.interchange.schema import read_schema
from deepseek.interchange.splits import Splitter
from tests.deepseek.interchange.imports import imported, reasons
from tests.deepseek.interchange.sources import sound_file, tar_file
from tests.harness.images import image_file, one_row_png


def test_damaged_files_of_a_folder_are_kept_aside(tmp_path: Path) -> None:
    good = image_file()
    sounds = {"good.wav": sound_file(), "good.flac": sound_file(kind="FLAC")}
    bad = {
        "truncated.wav": (sound_file()[:-100], "DAMAGED_AUDIO"),
        "empty.wav": (sound_file(seconds=0), "DAMAGED_AUDIO"),
        "silent.wav": (sound_file(level=0), "SILENT_AUDIO"),
        "clipped.wav": (sound_file(level=3), "CLIPPED_AUDIO"),
        "mislabelled.flac": (sound_file(), "WRONG_EXTENSION"),
        "text.wav": (b"this is no sound", "DAMAGED_AUDIO"),
    }
    for name, data in {**sounds, **{name: data for name, (data, _) in bad.items()}}.items():
        (tmp_path / name).write_bytes(data)
    _, samples, rejected = imported(tmp_path)
    assert {one.key for one in samples} == set(sounds)
    assert reasons(rejected) == {name: reason for name, (_, reason) in bad.items()}
    assert all(one.message for one in rejected)
    del good


def test_damaged_images_are_kept_aside(tmp_path: Path) -> None:
    bomb = one_row_png(8, 2, 1 << 27, b"")
    bad = {
        "a/truncated.jpg": (image_file(1, kind="JPEG")[:-200], "DAMAGED_IMAGE"),
        "a/mislabelled.jpg": (image_file(2), "WRONG_EXTENSION"),
        "a/bomb.png": (bomb, "DAMAGED_IMAGE"),
        "b/empty.png": (b"", "DAMAGED_IMAGE"),
        "b/old.gif": (b"GIF89a", "DAMAGED_IMAGE"),
        "b/other.dat": (b"\0\xff\0", "UNKNOWN_FILE_TYPE"),
    }
    good = {f"{label}/{i}.png": image_file(i) for label in "ab" for i in range(4)}
    for name, data in {**good, **{name: data for name, (data, _) in bad.items()}}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with (tmp_path / "a" / "huge.png").open("wb") as file:
        file.truncate(1 << 30)
    found, samples, rejected = imported(tmp_path)
    assert {one.key for one in samples} == set(good)
    assert reasons(rejected) == {**{name: reason for name, (_, reason) in bad.items()}, "a/huge.png": "TOO_LARGE"}
    assert found.report.num_duplicates == 0  # the label differs
    assert found.report.rejected.total() == len(bad) + 1


CSV = b"""id,size,colour
1,1.5,red
2,2.5,blue,oops
3,"a quote that never ends,red
4,4.5,red
5,5.5,bl\xffue
4,6.5,red
7,,red
"8",8.5,"dark
red"
"""


def test_bad_rows_of_a_csv_file_are_kept_aside_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "things.csv"
    path.write_bytes(CSV + b"".join(b"%d,1.0,red\n" % i for i in range(20, 60)) + b"99,big,red\n")
    found, samples, rejected = imported(path, key="id")
    assert [one.key for one in samples[:3]] == ["1", "4", "8"]
    assert samples[2].values == {"size": 8.5, "colour": "dark\nred"}
    assert len(samples) == 43
    assert reasons(rejected) == {
        "things.csv:3": "RAGGED_ROW",
        "things.csv:4": "RAGGED_ROW",
        "things.csv:6": "BAD_TEXT",
        "things.csv:7": "DUPLICATE_KEY",
        "things.csv:8": "MISSING_FIELD",
        "things.csv:51": "WRONG_TYPE",
    }
    assert found.report.missing == {"size": 1}
    _, samples, rejected = imported(path, key="id", fills={"size": "0"})
    assert samples[2].values["size"] == 0.0
    assert "things.csv:8" not in reasons(rejected)


def test_bad_lines_of_a_jsonl_file_are_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = [json.dumps({"text": f"number {i}", "score": i / 2, "tags": ["a", "b"]}) for i in range(3)]
    bad = [
        '{"text": "cut',
        "[1]",
        '{"text": "x", "score": "high", "tags": []}',
        '{"text": "x", "score": NaN, "tags": []}',
    ]
    path.write_text("\n".join([*good, *bad]))
    found, samples, rejected = imported(path, overrides=read_schema("score:number")[1])
    assert [one.values for one in samples] == [json.loads(line) for line in good]
    assert [(one.name, one.type, one.repeated) for one in found.fields] == [
        ("text", "text", False),
        ("score", "number", False),
        ("tags", "text", True),
    ]
    assert list(reasons(rejected).values()) == ["BAD_JSON", "BAD_JSON", "WRONG_TYPE", "MISSING_FIELD"]


@pytest.mark.parametrize("kept", [1 << 10, 2048, 3 * 1024, 5000])
def test_a_tar_that_ends_early_gives_the_samples_before_its_end(tmp_path: Path, kept: int) -> None:
    members = {f"{i}.txt": bytes([65 + i]) * 600 for i in range(8)}
    (tmp_path / "a.tar").write_bytes(tar_file(members)[:kept])
    (tmp_path / "b.tar").write_bytes(tar_file({"b0.txt": b"whole"}))
    _, samples, rejected = imported(tmp_path)
    assert len(samples) == kept // 1536 + 1
    assert reasons(rejected) == {"a.tar": "TRUNCATED_ARCHIVE"}


def test_a_tar_with_a_damaged_header_says_so(tmp_path: Path) -> None:
    data = bytearray(tar_file({f"{i}.txt": b"x" * 600 for i in range(4)}))
    data[2 * 1536 : 2 * 1536 + 300] = os.urandom(300)
    (tmp_path / "a.tar").write_bytes(data)
    _, samples, rejected = imported(tmp_path / "a.tar")
    assert len(samples) == 2
    assert reasons(rejected) == {"a.tar": "TRUNCATED_ARCHIVE"}


def test_a_label_out_of_range_is_kept_aside(tmp_path: Path) -> None:
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    table = pa.table({"text": list("abcd"), "label": [0, 1, 7, -1]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "x.parquet")
    found, samples, rejected = imported(tmp_path / "x.parquet")
    assert [one.values["label"] for one in samples] == ["no", "yes"]
    assert reasons(rejected) == {"x.parquet:3": "UNKNOWN_LABEL", "x.parquet:4": "MISSING_FIELD"}
    assert found.fields[1].labels == ("no", "yes")


def test_embeddings_and_dates_of_a_parquet_file_are_read(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).random((5, 3))
    table = pa.table(
        {"v": list(vectors), "day": [datetime.date(2026, 1, 2)] * 5, "wide": [2**40] * 5, "b": [b"\0\1"] * 5}
    )
    pq.write_table(table, tmp_path / "x.parquet")
    found, samples, rejected = imported(tmp_path / "x.parquet")
    assert {one.name: (one.type, one.repeated) for one in found.fields} == {
        "v": ("number", True),
        "day": ("text", False),
        "wide": ("integer", False),
        "b": ("bytes", False),
    }
    assert samples[4].values["v"] == list(vectors[4])
    assert not rejected


def test_a_damaged_parquet_file_costs_only_its_own_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1, 2]}), tmp_path / "train-0.parquet")
    (tmp_path / "train-1.parquet").write_bytes(b"PAR1 no more PAR1")
    _, samples, rejected = imported(tmp_path)
    assert [one.values["n"] for one in samples] == [1, 2]
    assert reasons(rejected) == {"train-1.parquet": "BAD_SOURCE"}


def test_paths_that_leave_the_root_are_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside.png"
    root.mkdir()
    outside.write_bytes(image_file(1))
    for i in range(8):
        (root / f"{i}.png").write_bytes(image_file(i))
    (root / "link.png").symlink_to(outside)
    names = [f"{i}.png" for i in range(8)] + ["../outside.png", "link.png", str(outside), "none.png"]
    (root / "rows.csv").write_text("image,n\n" + "".join(f"{name},1\n" for name in names))
    _, samples, rejected = imported(root / "rows.csv")
    assert len(samples) == 8
    assert list(reasons(rejected).values()) == ["BAD_FILE_NAME"] * 3 + ["FILE_NOT_FOUND"]


def test_links_are_followed_on_request_inside_the_root_only(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "1"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(image_file(9))
    for i in range(4):
        (blobs / f"blob{i}").write_bytes(image_file(i))
        (snapshot / f"{i}.png").symlink_to(f"../../blobs/blob{i}")
    (snapshot / "secret.png").symlink_to(tmp_path / "secret.png")
    (snapshot / "loop").symlink_to(snapshot)
    with pytest.raises(InvalidArgument, match="follow-links"):
        imported(snapshot)
    with pytest.raises(InvalidArgument, match="--root"):
        imported(snapshot, Access(follow_links=True))
    _, samples, rejected = imported(snapshot, Access(root=tmp_path / "hub", follow_links=True))
    assert [one.key for one in samples] == [f"{i}.png" for i in range(4)]
    assert reasons(rejected) == {"secret.png": "BAD_FILE_NAME", "loop": "BAD_FILE_NAME"}


def test_a_folder_with_one_class_is_refused_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(image_file())
    with pytest.raises(InvalidArgument, match="only the class 'cat'") as error:
        imported(tmp_path)
    assert error.value.reason == "ONE_CLASS"
    found, samples, _ = imported(tmp_path, overrides=read_schema("label:skip")[1])
    assert [one.name for one in found.fields] == ["image"]
    assert len(samples) == 1


def test_the_schema_of_a_table_is_inferred_and_can_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    rows = "".join(f"{i:03},{i % 3},{i / 4},{'m' if i % 2 else 'f'},,{i}\n" for i in range(30))
    path.write_text("Zip,Class,Height (cm),Sex,Empty,\n" + rows)
    found, samples, _ = imported(path, target="Class")
    assert {one.name: one.type for one in found.fields} == {
        "zip": "text",
        "height_cm": "number",
        "sex": "label",
        "column_6": "integer",
        "class": "label",
    }
    assert found.fields[-1].labels == ("0", "1", "2")
    assert samples[1].values["class"] == "1"
    assert any("Empty" in notice for notice in found.plan.notices)
    found, samples, _ = imported(path, overrides=read_schema("sex:label,zip:skip,column_6:skip,Class:text")[1])
    assert {one.name: one.type for one in found.fields} == {"class": "text", "height_cm": "number", "sex": "label"}
    for option, wish in {
        "target": {"target": "colour"},
        "key": {"key": "colour"},
        "fill": {"fills": {"colour": "red"}},
        "schema": {"overrides": read_schema("colour:text")[1]},
        "split_column": {"splitter": Splitter(column="colour")},
    }.items():
        with pytest.raises(InvalidArgument, match="there is no column 'colour'") as caught:
            imported(path, **wish)  # type: ignore[arg-type]
        assert caught.value.field == option
    with pytest.raises(InvalidArgument, match="the schema has no field 'colour'; its fields are: ") as caught:
        imported(path, fields=found.fields, fills={"colour": "red"})
    assert caught.value.field == "fill"


def test_a_seeded_share_of_the_rows_is_the_test_split(tmp_path: Path) -> None:
    path = tmp_path / "n.csv"
    path.write_text("n\n" + "".join(f"{i}\n" for i in range(2000)))
    splits = {}
    for seed in (0, 1):
        _, samples, _ = imported(path, splitter=Splitter(test_share=0.2, seed=seed))
        splits[seed] = {one.key for one in samples if one.split == "test"}
        assert 340 < len(splits[seed]) < 460
    assert splits[0] != splits[1]
    _, samples, _ = imported(path, splitter=Splitter(test_share=0.2))
    assert {one.key for one in samples if one.split == "test"} == splits[0]


def test_a_strict_import_ends_at_the_first_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "n.csv"
    path.write_text("a,b\n1,2\n1\n3,4\n")
    found = Import(open_source(str(path)), is_strict=True)
    with pytest.raises(InvalidArgument, match=r"n.csv:3 has 1 cells") as error:
        list(found)
    assert error.value.reason == "RAGGED_ROW"


def test_a_label_that_only_the_test_split_has_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "n.csv"
    path.write_text("text,kind,part\na,x,train\nb,y,train\nc,z,test\n")
    found, _, _ = imported(path, splitter=Splitter(column="part"), target="kind")
    assert found.report.statistics.unbalanced_splits() == ["the split train has no sample with the kind 'z'"]


def test_text_of_few_distinct_values_becomes_a_label(tmp_path: Path) -> None:
    path = tmp_path / "n.csv"
    rows = [("red", "x" * 70, f"a {i}", "same", ["s", "m"][i % 2], i if i % 3 else "?!") for i in range(30)]
    rows += [("blue", "y" * 70, f"b {i}", "same", "" if i else "m", i) for i in range(30)]
    path.write_text("colour,long,free,one,size,mixed\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    found, samples, rejected = imported(path)
    assert {one.name: one.type for one in found.fields if one.type != "text"} == {"colour": "label"}
    assert (found.fields[-1].labels, samples[0].values["colour"]) == (("blue", "red"), "red")
    assert (len(samples), rejected) == (60, [])
    assert found.plan.notices == [
        "size has few distinct values, but 29 rows have none, so its type is text; --schema 'size:label' --fill "
        "'size=other' makes it a label",
        "mixed holds 50 numbers and 10 other texts, so its type is text; --schema 'mixed:number' keeps the rows with "
        "other texts aside",
        "text with few distinct values becomes a label: colour; --schema 'colour:text' changes it",
    ]
    found, _, _ = imported(path, overrides=read_schema("colour:text")[1], target="free")
    assert [one.name for one in found.fields if one.type == "label"] == ["free"]
    lines = tmp_path / "lines.txt"
    lines.write_text("to be\nor not\n" * 30)
    assert [one.type for one in imported(lines)[0].fields] == ["text"]


def test_a_text_file_gives_a_sample_per_line(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbf 12\r\n\n34\nbad \xff\n12")
    found, samples, rejected = imported(path)
    assert [(one.key, one.values) for one in samples] == [
        ("book.txt:1", {"text": " 12"}),
        ("book.txt:3", {"text": "34"}),
        ("book.txt:5", {"text": "12"}),
    ]
    assert reasons(rejected) == {"book.txt:4": "BAD_TEXT"}
    assert found.fields[0].type == "text"


def test_a_folder_beside_those_of_the_splits_is_kept_aside(tmp_path: Path) -> None:
    for folder in ("train/a", "train/b", "test/a", "notes"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.png").write_bytes(image_file())
    _, samples, rejected = imported(tmp_path)
    assert [(one.split, one.values["label"]) for one in samples] == [("test", "a"), ("train", "a"), ("train", "b")]
    assert reasons(rejected) == {"notes": "BAD_SPLIT"}
