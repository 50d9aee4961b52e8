"""The forms that a node's data may have, and the samples that are kept aside."""

import csv
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InvalidArgument
from deepseek.data.manifest import Field
from deepseek.data.quarantine import from_row, read_rows
from deepseek.federated.node_data import TENANT, open_data
from tests.deepseek.federated.pictures import FIELDS, LABELS, pictures, write_folder

TABLE = (Field("size", "number"), Field("kind", "label", labels=("a", "b")))


def test_a_folder_is_imported_once_and_again_when_it_changes(tmp_path: Path) -> None:
    source, work = write_folder(tmp_path / "pictures", range(20)), tmp_path / "work"
    first = open_data(str(source), FIELDS, "train", work)
    assert first.manifest.num_samples("train") == 20
    (imported,) = work.iterdir()
    before = imported.stat().st_mtime_ns
    assert open_data(str(source), FIELDS, "train", work).manifest == first.manifest
    assert imported.stat().st_mtime_ns == before
    write_folder(source, range(20, 23))
    assert open_data(str(source), FIELDS, "train", work).manifest.num_samples("train") == 23


def test_only_the_last_imports_are_kept(tmp_path: Path) -> None:
    source, work = tmp_path / "pictures", tmp_path / "work"
    for number in range(7):
        open_data(str(write_folder(source, [number])), FIELDS, "train", work)
    assert len(list(work.iterdir())) == 4
    assert open_data(str(source), FIELDS, "train", work).manifest.num_samples() == 7


def test_unknown_labels_and_damaged_files_are_kept_aside_and_counted(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "pictures", range(10))
    (source / "purple").mkdir()
    shutil.copy(pictures()[0][0], source / "purple" / "p.png")
    (source / LABELS[0]).mkdir(exist_ok=True)
    (source / LABELS[0] / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    data = open_data(str(source), FIELDS, "train", tmp_path / "work")
    assert data.manifest.num_samples("train") == 10
    assert data.metrics == {"num_rejected": 2.0, "num_unknown_labels": 1.0}
    (shard,) = data.manifest.quarantine
    rows = [from_row(row) for row in read_rows(data.store.read(TENANT, shard.sha256))]
    assert {row.reason for row in rows} == {"DAMAGED_IMAGE", "UNKNOWN_LABEL"}


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_a_table_keeps_the_fields_of_the_recipe(name: str, tmp_path: Path) -> None:
    rows = [{"Size": 1.5 * i, "kind": "ab"[i % 2] if i < 8 else "c", "more": i} for i in range(9)]
    if name.endswith(".csv"):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    data = open_data(str(tmp_path / name), TABLE, "train", tmp_path / "work")
    assert data.manifest.fields == TABLE
    assert data.manifest.num_samples("train") == 8
    assert data.rejected == {"UNKNOWN_LABEL": 1}


def test_the_training_split_is_used_if_the_source_has_splits(tmp_path: Path) -> None:
    write_folder(tmp_path / "pictures" / "train", range(6))
    write_folder(tmp_path / "pictures" / "test", range(6, 10))
    data = open_data(str(tmp_path / "pictures"), FIELDS, "train", tmp_path / "work")
    assert (data.split, data.manifest.num_samples(data.split)) == ("train", 6)
    other = open_data(str(tmp_path / "pictures" / "train"), FIELDS, "learn", tmp_path / "work")
    assert other.manifest.num_samples(other.split) == 6


def test_a_source_without_usable_examples_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.csv").write_text("other\n1\n2\n")
    with pytest.raises(InvalidArgument, match="it is empty") as caught:
        open_data(str(tmp_path / "empty"), FIELDS, "train", tmp_path / "work")
    assert (caught.value.reason, caught.value.field) == ("NO_EXAMPLES", "data")
    with pytest.raises(
        InvalidArgument, match=r"none of its 2 samples fits .* MISSING_FIELD: rows\.csv:2: size is missing"
    ):
        open_data(str(tmp_path / "rows.csv"), TABLE, "train", tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == [], "nothing is left behind"


def test_a_source_that_does_not_exist_says_what_is_possible(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="mesh:NAME:VERSION") as caught:
        open_data(str(tmp_path / "nowhere"), FIELDS, "train", tmp_path / "work")
    assert (caught.value.reason, caught.value.field) == ("BAD_SOURCE", "data")
