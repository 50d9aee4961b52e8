"""`deepseek dataset import` against a registry and an ingest service."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from deepseek.client import MeshFile, ServiceAddress
from tests.deepseek.cli.commands import assert_refused, deepseek
from tests.deepseek.interchange.sources import FORMATS, PICTURES, sound_file
from tests.harness.images import image_file
from tests.services.ingest.conftest import start_ingest


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("mesh") / "home"
    with ExitStack() as owned:
        mesh = start_ingest(home, owned)
        services = {"registry": mesh.registry.address, "ingest": mesh.ingest.address}
        MeshFile({name: ServiceAddress(address) for name, address in services.items()}).write(home / "mesh.json")
        yield home


def test_class_folders_become_one_version_with_both_splits(home: Path, tmp_path: Path) -> None:
    place = FORMATS["class folders"](tmp_path / "data", PICTURES)
    shown = deepseek(home, "dataset", "import", "pets", str(place))
    assert shown.returncode == 0, shown.stderr
    assert "pets:1 (datasets/pets/versions/1)" in shown.stdout
    assert "importing 6 of 6" in shown.stderr
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert ["samples", "6", "train", "4,", "test", "2"] in rows
    assert ["label", "label", "2:", "cat,", "dog"] in rows
    again = json.loads(deepseek(home, "dataset", "import", "datasets/pets", str(place), "--json").stdout)
    assert again["version"] == "datasets/pets/versions/1"
    assert again["splits"] == {"test": 2, "train": 4}
    assert again["fields"]["label"]["labels"] == {"cat": 3, "dog": 3}
    read = deepseek(home, "dataset", "read", "datasets/pets/versions/1", "--split", "test").stdout.splitlines()
    assert [json.loads(line)["text"] for line in read] == [["no. 4"], ["no. 5"]]


def test_bad_samples_are_listed_in_a_file_and_the_others_are_imported(home: Path, tmp_path: Path) -> None:
    place = FORMATS["class folders"](tmp_path / "data", PICTURES)
    (place / "train" / "cat" / "9.png").write_bytes(image_file()[:70])
    (place / "train" / "dog" / "8.wav").write_bytes(sound_file())
    result = json.loads(deepseek(home, "dataset", "import", "mixed", str(place), "--json").stdout)
    assert result["num_samples"] == 6
    assert result["rejected"] == {"DAMAGED_IMAGE": 1, "MISSING_FIELD": 1}
    aside = Path(result["rejected_file"])
    assert aside == home / "rejected" / "mixed.jsonl"
    listed = [json.loads(line) for line in aside.read_text().splitlines()]
    assert [(one["key"], one["reason"]) for one in listed] == [
        ("train/cat/9.png", "DAMAGED_IMAGE"),
        ("train/dog/8.wav", "MISSING_FIELD"),
    ]
    shown = deepseek(home, "dataset", "show", "mixed").stdout.splitlines()
    assert ["quarantine", "2", "DAMAGED_IMAGE", "1,", "MISSING_FIELD", "1"] in [line.split() for line in shown]
    out = tmp_path / "aside"
    kept = json.loads(deepseek(home, "dataset", "quarantine", "mixed", "--out", str(out), "--json").stdout)
    assert kept["reasons"] == result["rejected"]
    assert [{name: one[name] for name in listed[0]} for one in kept["samples"]] == listed
    (aside_file,) = out.glob("*.image.png")
    assert aside_file.read_bytes() == image_file()[:70]
    aside_file.write_bytes(image_file())
    repaired = deepseek(home, "dataset", "repair", "mixed:1", str(out))
    assert "7 samples, 1 repaired, 1 still in quarantine (MISSING_FIELD 1)" in repaired.stdout, repaired.stderr
    edges = json.loads(deepseek(home, "dataset", "show", "mixed:2", "--json").stdout)["lineage"]
    assert edges == [{"source": "datasets/mixed/versions/1", "target": "datasets/mixed/versions/2"}]
    refused = deepseek(home, "dataset", "import", "mixed", str(place), "--strict")
    assert_refused(refused, "INVALID_ARGUMENT: DAMAGED_IMAGE", "source")
    assert json.loads(deepseek(home, "dataset", "uploads", "--json").stdout) == []


def test_a_repair_names_the_rows_whose_key_is_taken(home: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "n.csv", tmp_path / "aside"
    path.write_text("id,n\na,1\na,2\nb,x\n")
    arguments = ["--key", "id", "--schema", "n:integer"]
    assert deepseek(home, "dataset", "import", "taken", str(path), *arguments).returncode == 0
    assert deepseek(home, "dataset", "quarantine", "taken", "--out", str(out)).returncode == 0
    table = out / "samples.jsonl"
    table.write_text(table.read_text().replace('"x"', "3"))
    shown = deepseek(home, "dataset", "repair", "taken:1", str(out)).stdout
    assert "2 samples, 1 repaired, 1 still in quarantine (DUPLICATE_KEY 1)" in shown
    assert "because another sample has their key: 1 (samples.jsonl:1: a); change their keys" in shown
    again = json.loads(deepseek(home, "dataset", "repair", "taken:1", str(out), "--json").stdout)
    assert [(one["key"], one["place"]) for one in again["key_taken"]] == [("a", "samples.jsonl:1")]


def test_passages_are_repaired_from_the_text_that_was_imported(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "test.txt"
    path.write_bytes(b"0123456789" * 4 + b"012\xff456789")
    arguments = ["--passage", "10"]
    assert deepseek(home, "dataset", "import", "novel", str(path), *arguments, "--schema", "text:text").returncode == 0
    path.write_bytes(b"0123456789" * 5)
    refused = deepseek(home, "dataset", "repair", "novel", str(path))
    assert_refused(refused, "FAILED_PRECONDITION: NOTHING_REPAIRED", "source")
    repaired = deepseek(home, "dataset", "repair", "novel", str(path), *arguments)
    assert "5 samples, 1 repaired, 0 still in quarantine" in repaired.stdout, repaired.stderr
    read = deepseek(home, "dataset", "read", "novel", "--split", "test").stdout
    assert read.count("0123456789") == 5


def test_the_list_of_bad_samples_stays_until_another_import_ends_well(home: Path, tmp_path: Path) -> None:
    path, mine = tmp_path / "n.csv", tmp_path / "mine.jsonl"
    path.write_text("n,m\n1,2\n3\n")
    arguments = ["dataset", "import", "kept", str(path)]
    aside = Path(json.loads(deepseek(home, *arguments, "--json").stdout)["rejected_file"])
    first = aside.read_text()
    path.write_text("n,m\n1,2\n3\n4\n")
    tried = json.loads(deepseek(home, *arguments, "--dry-run", "--json").stdout)
    assert len(Path(tried["rejected_file"]).read_text().splitlines()) == 2
    path.write_text("n,m\n1\n3\n")
    assert deepseek(home, *arguments).returncode == 1
    assert aside.read_text() == first
    mine.write_text("not yours")
    refused = deepseek(home, *arguments, "--dry-run", "--rejected", str(mine))
    assert_refused(refused, "FAILED_PRECONDITION: OUTPUT_EXISTS", "rejected")
    assert mine.read_text() == "not yours"
    path.write_text("n,m\n1,2\n")
    assert json.loads(deepseek(home, *arguments, "--json").stdout)["rejected_file"] == ""
    assert not list(aside.parent.glob("*kept*"))


def test_a_table_is_imported_with_a_target_and_a_random_split(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "wine.csv"
    path.write_text("alcohol,kind\n" + "".join(f"{i / 7:.2f},{i % 3}\n" for i in range(100)))
    arguments = ["dataset", "import", "wine", str(path), "--target", "kind", "--test-share", "0.2"]
    result = json.loads(deepseek(home, *arguments, "--json").stdout)
    assert result["schema"] == [
        {"name": "alcohol", "type": "number", "repeated": False, "labels": []},
        {"name": "kind", "type": "label", "repeated": False, "labels": ["0", "1", "2"]},
    ]
    assert set(result["splits"]) == {"train", "test"}
    tried = json.loads(deepseek(home, *arguments, "--dry-run", "--seed", "1", "--json").stdout)
    assert tried["version"] == ""
    assert tried["splits"] != result["splits"]


@pytest.mark.parametrize(
    ("arguments", "error", "field"),
    [
        (("My Data", "."), "INVALID_ARGUMENT: BAD_NAME", "dataset"),
        (("x:3", "."), "INVALID_ARGUMENT: BAD_NAME", "dataset"),
        (("x", "/none"), "INVALID_ARGUMENT: BAD_SOURCE", "source"),
        (("x", ".", "--schema", "a=b"), "INVALID_ARGUMENT: BAD_SCHEMA", "schema"),
        (("x", ".", "--fill", "a"), "INVALID_ARGUMENT: BAD_VALUE", "fill"),
        (("x", ".", "--passage", "-1"), "INVALID_ARGUMENT: BAD_VALUE", "passage"),
        (("x", ".", "--test-share", "2"), "INVALID_ARGUMENT: BAD_VALUE", "test_share"),
        (("x", "s3+https://host"), "INVALID_ARGUMENT: BAD_SOURCE", "source"),
    ],
)
def test_wrong_arguments_are_refused_with_their_name(
    home: Path, arguments: tuple[str, ...], error: str, field: str
) -> None:
    refused = deepseek(home, "dataset", "import", *arguments)
    assert refused.returncode == 1
    assert error in refused.stderr
    assert f"field: {field}" in refused.stderr


def test_a_source_without_valid_samples_leaves_nothing_behind(home: Path, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"no image")
    refused = deepseek(home, "dataset", "import", "none", str(tmp_path))
    assert_refused(refused, "INVALID_ARGUMENT: NO_VALID_SAMPLES", "source")
    assert json.loads(deepseek(home, "dataset", "uploads", "--json").stdout) == []
    assert "none" not in deepseek(home, "dataset", "list").stdout


def test_a_version_is_shown_with_its_balance_drift_and_pictures(home: Path, tmp_path: Path) -> None:
    place = FORMATS["class folders"](tmp_path / "data", PICTURES)
    assert deepseek(home, "dataset", "import", "shown", str(place)).returncode == 0
    more = [("train", "dog", image_file(9 + i, (8, 6)), f"{'much longer ' * i}") for i in range(1, 30)]
    again = FORMATS["class folders"](tmp_path / "more", [*PICTURES, *more, *more[:2]])
    assert deepseek(home, "dataset", "import", "shown", str(again)).returncode == 0
    shown = deepseek(home, "dataset", "show", "shown:2", "--against", "shown:1", "--sheet", str(tmp_path / "sheet.png"))
    assert shown.returncode == 0, shown.stderr
    assert "shown:2 (datasets/shown/versions/2)" in shown.stdout
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert ["label", "test", "train", "share"] in rows
    assert ["dog", "1", "33", "91.9%"] in rows
    ranges = {row[0]: " ".join(row[3:]) for row in rows if row[1:2] in (["image"], ["text"])}
    assert re.fullmatch(r"size( \d+ B){4}", ranges["image"])
    assert ranges["text"].startswith("characters 5 348 ")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (960, 1024)
    found = json.loads(deepseek(home, "dataset", "show", "shown", "--against", "shown:1", "--json").stdout)
    assert found["num_duplicates"] == 2
    assert found["splits"] == {"test": 2, "train": 35}
    drift = {one["field"]: one for one in found["drift"]}
    assert drift["label"]["is_large"]
    assert drift["text"]["ks"] > 0.5
    assert drift["text"]["p_value"] < 0.05


@pytest.mark.parametrize("form", ["parquet", "webdataset", "folders"])
def test_an_exported_version_is_imported_as_the_same_version(home: Path, tmp_path: Path, form: str) -> None:
    place = FORMATS["class folders"](tmp_path / "data", PICTURES)
    name = f"out-{form}"
    first = json.loads(deepseek(home, "dataset", "import", name, str(place), "--json").stdout)
    out = tmp_path / "out"
    exported = deepseek(home, "dataset", "export", name, str(out), "--format", form, "--json")
    assert json.loads(exported.stdout)["num_samples"] == len(PICTURES), exported.stderr
    again = json.loads(deepseek(home, "dataset", "import", name, str(out), "--json").stdout)
    assert (again["version"], again["sha256"]) == (first["version"], first["sha256"])
    assert_refused(deepseek(home, "dataset", "export", name, str(out)), "FAILED_PRECONDITION: OUTPUT_EXISTS", "folder")


def test_many_invalid_rows_are_a_warning_with_the_most_frequent_reason(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "n.csv"
    path.write_text("n,m\n" + "1,2\n" * 90 + "3\r4\n" * 4 + ",5\n" * 3)
    shown = deepseek(home, "dataset", "import", "mangled", str(path))
    assert shown.returncode == 0, shown.stderr
    assert "importing 101 of 101" in shown.stderr
    warning = "11 of 101 samples (11%) are kept aside, 8 of them with the reason RAGGED_ROW, e.g. n.csv:92 has 1 cells"
    assert f"warning: {warning}" in shown.stderr
    assert "list them with `deepseek dataset quarantine mangled:1`" in shown.stderr
    assert "note: rows without a value of n are kept aside: 3; --fill n=VALUE or --fill n=median" in shown.stdout
    tried = json.loads(deepseek(home, "dataset", "import", "mangled", str(path), "--dry-run", "--json").stdout)
    assert tried["warning"].startswith(warning)
    assert tried["warning"].endswith("mangled.jsonl lists them")
    path.write_text("n,m\n" + "1,2\n" * 90 + ",5\n" * 10)
    assert "warning" not in deepseek(home, "dataset", "import", "mangled", str(path)).stderr


def test_a_repair_follows_links_and_names_rows_that_repair_a_sample_again(home: Path, tmp_path: Path) -> None:
    data, blobs, links = tmp_path / "data", tmp_path / "repaired", tmp_path / "links"
    FORMATS["class folders"](data, PICTURES)
    (data / "train" / "cat" / "9.png").write_bytes(b"")
    assert deepseek(home, "dataset", "import", "linked", str(data)).returncode == 0
    for folder in (blobs, links / "train" / "cat"):
        folder.mkdir(parents=True)
    (blobs / "blob").write_bytes(image_file(9))
    (links / "train" / "cat" / "9.png").symlink_to(blobs / "blob")
    (links / "train" / "cat" / "9.txt").write_text("no. 9")
    arguments = ["dataset", "repair", "linked:1", str(links)]
    assert deepseek(home, *arguments).returncode == 1
    repaired = deepseek(home, *arguments, "--follow-links", "--root", str(tmp_path))
    assert "7 samples, 1 repaired, 0 still in quarantine" in repaired.stdout, repaired.stderr

    path, out = tmp_path / "n.csv", tmp_path / "aside"
    path.write_text("id,n\na,1\nb,x\n")
    imported = deepseek(home, "dataset", "import", "again", str(path), "--key", "id", "--schema", "n:integer")
    assert imported.returncode == 0, imported.stderr
    assert deepseek(home, "dataset", "quarantine", "again", "--out", str(out)).returncode == 0
    table = out / "samples.jsonl"
    table.write_text(2 * table.read_text().replace('"x"', "3"))
    shown = deepseek(home, "dataset", "repair", "again:1", str(out)).stdout
    assert "rows ignored because an earlier row repairs the same sample: 1 (samples.jsonl:2: b)" in shown
    table.write_text(table.read_text().replace("3", "4"))
    found = json.loads(deepseek(home, "dataset", "repair", "again:1", str(out), "--json").stdout)
    assert [(one["key"], one["place"]) for one in found["repeated"]] == [("b", "samples.jsonl:2")]
    assert found["key_taken"] == []
