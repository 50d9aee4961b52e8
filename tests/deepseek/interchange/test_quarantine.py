"""One sample in a hundred is damaged: each goes into the quarantine with the right reason, and no good one is lost."""

import csv
import io
import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from common.errors import FailedPrecondition
from deepseek.client import Mesh, MeshFile, ServiceAddress, connect
from deepseek.data.rejected import Rejected
from deepseek.interchange import source as rows_of_sources
from deepseek.interchange.importing import Import
from deepseek.interchange.opening import open_source
from deepseek.interchange.quarantine import TABLE, repair, write_quarantine
from deepseek.interchange.schema import Wishes, read_schema
from deepseek.interchange.splits import Splitter
from protos.ingest.v1 import ingest_pb2
from tests.deepseek.interchange.imports import imported
from tests.deepseek.interchange.sources import sound_file
from tests.harness.images import image_file, one_row_png
from tests.services.ingest.conftest import start_ingest

SEED = 20261129


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    home = tmp_path_factory.mktemp("mesh") / "home"
    with ExitStack() as owned:
        started = start_ingest(home, owned)
        services = {"registry": started.registry.address, "ingest": started.ingest.address}
        MeshFile({name: ServiceAddress(address) for name, address in services.items()}).write(home / "mesh.json")
        yield owned.enter_context(connect(home / "mesh.json"))


def damaged_images() -> dict[str, tuple[bytes, str]]:
    """Files by extension and kind of damage, each with the reason for which it must be rejected."""
    png, jpeg = image_file(1, (16, 16)), image_file(2, (16, 16), kind="JPEG")
    return {
        "cut.jpg": (jpeg[: len(jpeg) // 2], "DAMAGED_IMAGE"),
        "cut.png": (png[: len(png) // 2], "DAMAGED_IMAGE"),
        "flipped.png": (png[:60] + bytes([png[60] ^ 1]) + png[61:], "DAMAGED_IMAGE"),
        "mislabelled.jpg": (png, "WRONG_EXTENSION"),
        "mislabelled.png": (jpeg, "WRONG_EXTENSION"),
        "text.png": (b"<html>404</html>", "DAMAGED_IMAGE"),
        "empty.jpg": (b"", "DAMAGED_IMAGE"),
        "wide.png": (one_row_png(8, 2, 1 << 27, b""), "DAMAGED_IMAGE"),
    }


def damaged_sounds() -> dict[str, tuple[bytes, str]]:
    whole = sound_file()
    return {
        "cut.wav": (whole[:-100], "DAMAGED_AUDIO"),
        "empty.wav": (sound_file(seconds=0), "DAMAGED_AUDIO"),
        "silent.wav": (sound_file(level=0), "SILENT_AUDIO"),
        "clipped.wav": (sound_file(level=3), "CLIPPED_AUDIO"),
        "mislabelled.flac": (whole, "WRONG_EXTENSION"),
    }


def check(mesh: Mesh, dataset: str, found: Import, good: set[str], bad: dict[str, str]) -> None:
    """Uploads an import, and compares the version and its quarantine with what is expected, by place."""
    version = found.upload(mesh.datasets, dataset)
    splits = mesh.datasets.manifest(version).splits
    stored = [sample.key for split in sorted(splits) for sample in mesh.datasets.read(version.name, split)]
    assert len(stored) == len(set(stored))
    assert set(stored) == good
    kept = list(mesh.datasets.quarantined(version.name))
    assert {one.place: one.reason for one in kept} == bad
    assert len(kept) == len(bad)
    assert all(one.message for one in kept)
    assert found.report.rejected.total() == len(bad)
    assert found.report.statistics.num_samples == version.num_samples == len(good)


@pytest.mark.parametrize(
    ("period", "kind", "is_clipped"),
    [
        ([1.0, 1.0, -1.0, -1.0], "PCM_16", False),  # loud, but no three equal values in a row
        ([1.0, 0.991, 0.993, 0.995, -1.0], "FLOAT", False),  # all at full scale, none equal
        ([1.0, 1.0, 1.0, *[0.0] * 13], "PCM_16", False),  # clipped, but by less than a fifth
        ([1.0, 1.0, 1.0, *[0.0] * 9], "PCM_16", True),
        ([1.0, 1.0, 1.0, 0.0, -1.0, -1.0, -1.0], "PCM_U8", True),
        ([0.9, 0.9, 0.9, 0.0], "PCM_16", False),
    ],
)
def test_flat_tops_at_full_scale_are_clipped_and_loud_sounds_are_not(
    tmp_path: Path, period: list[float], kind: str, is_clipped: bool
) -> None:
    soundfile.write(tmp_path / "tone.wav", period * 100, 8000, subtype=kind)
    (tmp_path / "quiet.wav").write_bytes(sound_file())
    _, _, rejected = imported(tmp_path)
    assert [one.reason for one in rejected] == ["CLIPPED_AUDIO"] * is_clipped


@pytest.mark.parametrize("num_frames", [1, 2])
def test_a_click_is_not_clipped(tmp_path: Path, num_frames: int) -> None:
    soundfile.write(tmp_path / "click.wav", [1.0] * num_frames, 8000)
    assert not imported(tmp_path)[2]


def test_damaged_files_among_many_good_ones(mesh: Mesh, tmp_path: Path) -> None:
    draw = random.Random(SEED)
    good, bad = set[str](), dict[str, str]()
    for name, files, kind, ending in (
        ("images", damaged_images(), "image", "jpg"),
        ("sounds", damaged_sounds(), "audio", "wav"),
    ):
        root = tmp_path / name
        good, bad = set(), {}
        damaged = {f"{draw.randrange(1000):04}-{path}": value for path, value in files.items()}
        whole = {
            f"{draw.randrange(1000):04}-{i}.{ending}": image_file(i, (16, 16), kind="JPEG")
            if kind == "image"
            else sound_file(level=0.1 + i / 1000)
            for i in range(40 * len(files))
        }
        for path, data in [*whole.items(), *((path, data) for path, (data, _) in damaged.items())]:
            label = draw.choice(["cat", "dog"])
            (root / label).mkdir(parents=True, exist_ok=True)
            (root / label / path).write_bytes(data)
            if path in damaged:
                bad[f"{label}/{path}"] = damaged[path][1]
            else:
                good.add(f"{label}/{path}")
        found = Import(open_source(str(root)))
        check(mesh, f"many-{name}", found, good, bad)
        for one in mesh.datasets.quarantined(f"datasets/many-{name}/versions/1"):
            assert one.values[kind] == [(root / one.key).read_bytes()]
        checked_here, samples, rejected = imported(root)
        assert {one.key for one in samples} == good
        assert {one.place: one.reason for one in rejected} == bad
        assert checked_here.report.to_json() == found.report.to_json()


def test_damaged_rows_among_many_good_ones(mesh: Mesh, tmp_path: Path) -> None:
    draw = random.Random(SEED)
    damaged = {
        b"r%d,1.5,red,more": "RAGGED_ROW",
        b"r%d,1.5,bl\xffue": "BAD_TEXT",
        b"r%d,wide,red": "WRONG_TYPE",
        b"r%d,1.5,purple": "UNKNOWN_LABEL",
        b"r%d,,red": "MISSING_FIELD",
        b"r0,1.5,red": "DUPLICATE_KEY",
        b"\x1bkey,1.5,red": "BAD_KEY",
        b",1.5,red": "BAD_KEY",
    }
    lines = [b"r%d,%.2f,%s" % (i, i / 7, draw.choice([b"red", b"blue"])) for i in range(100 * len(damaged))]
    for line in damaged:
        lines.insert(draw.randrange(1, len(lines)), line)
    reasons = {}
    for number, line in enumerate(lines):
        if line in damaged:
            reasons[f"rows.csv:{number + 2}"] = damaged[line]
            lines[number] = line % (10_000 + number) if b"%d" in line else line
    path = tmp_path / "rows.csv"
    path.write_bytes(b"id,size,colour\n" + b"\n".join(lines) + b"\n")
    schema = [{"name": "size", "type": "number"}, {"name": "colour", "type": "label", "labels": ["red", "blue"]}]
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    fields, _ = read_schema(str(tmp_path / "schema.json"))
    found = Import(open_source(str(path)), Wishes(fields=fields, key="id"))
    check(mesh, "many-rows", found, {f"r{i}" for i in range(100 * len(damaged))}, reasons)
    kept = {one.reason: one for one in mesh.datasets.quarantined("datasets/many-rows/versions/1")}
    assert kept["WRONG_TYPE"].values["size"] == ["wide"]
    assert next(csv.reader(io.StringIO(kept["RAGGED_ROW"].values["line"][0])))[3] == "more"
    assert kept["BAD_TEXT"].values["line"][0].endswith(b"bl\xffue\n")


def written(mesh: Mesh, name: str, folder: Path) -> list[dict[str, Any]]:
    """Writes the quarantine of a version, and returns the lines of its table."""
    version = mesh.datasets.version(name)
    write_quarantine(mesh.datasets.quarantined(name), mesh.datasets.manifest(version).fields, folder)
    return [json.loads(line) for line in (folder / TABLE).read_text().splitlines()]


def test_a_quarantine_is_repaired_from_the_folder_to_which_it_was_written(mesh: Mesh, tmp_path: Path) -> None:
    rows = ["id,size,colour", "a,1,red", "b,2,blue", "c,x,red", "d,4,red,5", "b,5,red", "e,,blue"]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    found = Import(
        open_source(str(tmp_path / "rows.csv")),
        Wishes(overrides=read_schema("size:integer,colour:label")[1], key="id"),
        Splitter("part"),
    )
    old = found.upload(mesh.datasets, "rows")
    written(mesh, old.name, tmp_path / "same")
    with pytest.raises(FailedPrecondition, match="missing") as caught:
        repair(mesh, old, open_source(str(tmp_path / "same")))
    assert caught.value.reason == "NOTHING_REPAIRED"
    lines = written(mesh, old.name, tmp_path / "out")
    assert [(one["_key"], one["_reason"]) for one in lines] == [
        ("c", "WRONG_TYPE"),
        ("rows.csv:5", "RAGGED_ROW"),
        ("b", "DUPLICATE_KEY"),
        ("e", "MISSING_FIELD"),
    ]
    assert lines[1]["_unread"] == {"line": "d,4,red,5\n"}
    lines[0]["size"] = 3
    lines[1] |= {"_key": "d", "size": 4, "colour": "red", "_unread": None}
    lines[2]["_key"] = "b2"
    (tmp_path / "out" / TABLE).write_text("\n".join(map(json.dumps, lines)))
    new = repair(mesh, old, open_source(str(tmp_path / "out")))
    assert (old.num_samples, new.num_samples, list(new.sources)) == (2, 5, [old.name])
    assert [one.key for one in read(mesh, new.name, "part")] == ["a", "b", "c", "d", "b2"]
    (left,) = mesh.datasets.quarantined(new.name)
    assert (left.key, left.reason, left.values["colour"]) == ("e", "MISSING_FIELD", ["blue"])


def test_a_repaired_row_whose_key_is_taken_is_named_and_stays_in_quarantine(mesh: Mesh, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,size\na,1\nb,2\nc,x\nb,4\n,5\n")
    wishes = Wishes(overrides=read_schema("size:integer")[1], key="id")
    old = Import(open_source(str(tmp_path / "rows.csv")), wishes).upload(mesh.datasets, "taken")
    lines = written(mesh, old.name, tmp_path / "out")
    assert [one["_reason"] for one in lines] == ["WRONG_TYPE", "DUPLICATE_KEY", "BAD_KEY"]
    table = tmp_path / "out" / TABLE
    lines[2] |= {"_key": "a", "_unread": None}
    table.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(FailedPrecondition, match=r"samples\.jsonl:3: another sample has the key 'a'") as caught:
        repair(mesh, old, open_source(str(tmp_path / "out")))
    assert caught.value.reason == "NOTHING_REPAIRED"
    lines[0]["size"] = 3
    lines[1]["_key"] = "c"  # the repaired line before it has this key
    table.write_text("\n".join(map(json.dumps, [*lines, {**lines[1], "_key": "a"}, {**lines[2], "_key": "e"}])))
    taken = list[Rejected]()
    new = repair(mesh, old, open_source(str(tmp_path / "out")), on_key_taken=taken.extend)
    assert [one.key for one in read(mesh, new.name)] == ["a", "b", "c", "e"]
    assert [(one.key, one.place, one.reason) for one in taken] == [("a", "samples.jsonl:4", "DUPLICATE_KEY")]
    assert [(one.key, one.reason) for one in mesh.datasets.quarantined(new.name)] == [("b", "DUPLICATE_KEY")]


def test_a_quarantine_is_repaired_from_the_files_that_were_imported(mesh: Mesh, tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(3):
            (tmp_path / label / f"{i}.png").write_bytes(image_file(i))
    (tmp_path / "cat" / "1.png").write_bytes(b"")
    (tmp_path / "dog" / "2.png").write_bytes(image_file()[:80])
    old = Import(open_source(str(tmp_path))).upload(mesh.datasets, "files")
    (tmp_path / "cat" / "1.png").write_bytes(image_file(7))
    left = list[str]()
    new = repair(mesh, old, open_source(str(tmp_path)), on_quarantine=lambda rest: left.extend(one.key for one in rest))
    assert (old.num_samples, new.num_samples, left) == (4, 5, ["dog/2.png"])
    assert {one.key for one in read(mesh, new.name)} >= {"cat/1.png"}
    with pytest.raises(FailedPrecondition, match=r"dog/2\.png"):
        repair(mesh, new, open_source(str(tmp_path)))


def table_with_files(folder: Path, ending: str) -> Path:
    """Writes a table that names files beside it: a good row, and three that are invalid."""
    folder.mkdir()
    for name in ("a.png", "b.png", "d.jpg"):
        (folder / name).write_bytes(image_file(ord(name[0]), (8, 8)))
    rows: list[dict[str, Any]] = [
        {"picture": "a.png", "size": "1"},
        {"picture": "b.png", "size": "x"},
        {"picture": "c.png", "size": "3"},
        {"picture": "d.jpg", "size": "4"},
    ]
    path = folder / f"rows{ending}"
    if ending == ".csv":
        path.write_text("\n".join(["picture,size", *(",".join(row.values()) for row in rows)]))
    elif ending == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_the_files_that_an_invalid_row_names_are_kept_and_can_be_repaired(
    mesh: Mesh, tmp_path: Path, ending: str
) -> None:
    path = table_with_files(tmp_path / "data", ending)
    schema = Wishes(overrides=read_schema("picture:image,size:integer")[1])
    old = Import(open_source(str(path)), schema).upload(mesh.datasets, f"files-{ending[1:]}")
    kept = {one.reason: one.values for one in mesh.datasets.quarantined(old.name)}
    assert kept == {
        "WRONG_TYPE": {"picture": [image_file(ord("b"), (8, 8))], "size": ["x"]},
        "FILE_NOT_FOUND": {"picture": ["c.png"], "size": ["3"]},
        "WRONG_EXTENSION": {"picture": [image_file(ord("d"), (8, 8))], "size": ["4"]},
    }
    lines = {one["_reason"]: one for one in written(mesh, old.name, tmp_path / "out")}
    lines["WRONG_TYPE"]["size"] = 2
    (tmp_path / "out" / "c.png").write_bytes(image_file(ord("c"), (8, 8)))
    (tmp_path / "out" / TABLE).write_text("\n".join(map(json.dumps, lines.values())))
    new = repair(mesh, old, open_source(str(tmp_path / "out")))
    assert new.num_samples == 4
    assert not list(mesh.datasets.quarantined(new.name, values=False))


def test_files_in_a_list_are_kept_each_by_itself(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(image_file(ord(name[0])))
    (tmp_path / "rows.csv").write_text('views,size\n"[""a.png"", ""b.png""]",1\n"[""b.png"", ""c.png""]",2\n')
    _, _, (rejected,) = imported(tmp_path / "rows.csv", overrides=read_schema("views:image[]")[1])
    assert rejected.reason == "FILE_NOT_FOUND"
    assert rejected.values == {"views": [image_file(ord("b")), "c.png"], "size": ["2"]}


def test_of_files_that_are_too_large_together_the_names_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table_with_files(tmp_path / "data", ".jsonl")
    monkeypatch.setattr(rows_of_sources, "MAX_FILE_BYTES", len(image_file(ord("b"), (8, 8))))
    _, _, rejected = imported(path, overrides=read_schema("picture:image,size:integer")[1])
    assert rejected[0].values == {"picture": ["b.png"], "size": ["x"]}


def read(mesh: Mesh, name: str, split: str = "train") -> list[ingest_pb2.Sample]:
    return list(mesh.datasets.read(name, split))
