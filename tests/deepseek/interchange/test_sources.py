"""What every source promises, for every format."""

from pathlib import Path

import pytest

from common.errors import InvalidArgument
from deepseek.data.rejected import Rejected
from deepseek.interchange.importing import Import
from deepseek.interchange.opening import open_source
from deepseek.interchange.schema import Wishes, read_schema
from deepseek.interchange.source import Blob, Row, Source
from deepseek.interchange.splits import Splitter
from tests.deepseek.interchange.imports import imported
from tests.deepseek.interchange.sources import FORMATS, PICTURES


@pytest.fixture(params=FORMATS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return FORMATS[request.param](tmp_path / "data", PICTURES)


def splitter(place: Path) -> Splitter:
    return Splitter(column="part") if place.is_file() else Splitter()


def good_rows(source: Source) -> list[Row]:
    rows = list(source.rows())
    assert not [row for row in rows if isinstance(row, Rejected)]
    return [row for row in rows if isinstance(row, Row)]


def test_rows_are_read_again_from_the_start_in_the_same_order(place: Path) -> None:
    source = open_source(str(place))
    first = [(row.key, row.place, row.split) for row in good_rows(source)]
    assert first == [(row.key, row.place, row.split) for row in good_rows(source)]
    assert len(first) == len(PICTURES)


def test_keys_and_places_are_unique_and_name_no_place_on_this_machine(place: Path) -> None:
    rows = good_rows(open_source(str(place)))
    assert len({row.key for row in rows}) == len({row.place for row in rows}) == len(rows)
    assert not [row for row in rows if str(place.parent) in row.key + row.place]


def test_a_blob_can_be_read_until_the_next_row(place: Path) -> None:
    source = open_source(str(place))
    for row in source.rows():
        assert isinstance(row, Row)
        image = row.values["image"]
        blob = image if isinstance(image, Blob) else source.file(image)
        assert blob.read() == blob.read()
        assert len(blob.read()) == blob.size_bytes


def test_a_column_that_is_left_out_is_in_neither_samples_nor_rejections(place: Path) -> None:
    found = Import(open_source(str(place)), Wishes(overrides=read_schema("image:skip")[1]), splitter(place))
    assert {one.name for one in found.fields} == {"text", "label"}
    assert all(set(one.values) == {"text", "label"} for one in found)
    broken = Wishes(overrides=read_schema("image:skip,text:integer")[1])
    rejected = list(Import(open_source(str(place)), broken, splitter(place)).rows(decodes=False))
    assert [(type(one), sorted(one.values)) for one in rejected] == [(Rejected, ["label", "text"])] * len(PICTURES)


def test_every_format_gives_the_same_samples(place: Path) -> None:
    found = Import(open_source(str(place)), Wishes(target="label"), splitter(place))
    samples = sorted((one.values["text"], one.split, one.values["label"], one.values["image"]) for one in found)
    assert samples == [(caption, split, label, data) for split, label, data, caption in PICTURES]
    assert {one.name: one.type for one in found.fields} == {"image": "image", "text": "text", "label": "label"}
    assert next(one.labels for one in found.fields if one.name == "label") == ("cat", "dog")
    assert not found.report.rejected
    assert dict(found.report.statistics.splits) == {"train": 4, "test": 2}


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_sample_costs_only_itself(form: str, tmp_path: Path) -> None:
    damaged = [(*one[:2], one[2][:60] if i == 2 else one[2], one[3]) for i, one in enumerate(PICTURES)]
    place = FORMATS[form](tmp_path / "data", damaged)
    found = Import(open_source(str(place)), Wishes(target="label"), splitter(place))
    assert len(list(found)) == len(PICTURES) - 1
    assert dict(found.report.rejected) == {"DAMAGED_IMAGE": 1}


def test_files_beside_tables_are_named_and_not_read(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text("size,kind\n" + "1,a\n2,b\n" * 20)
    for name in ("README.md", "LICENSE", "CITATION.bib", "notes.txt", "scripts/clean.py", "docs/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("not a sample")
    (tmp_path / "dataset.json").write_text('{"title": "sizes", "columns": [1, 2]}')
    found, samples, rejected = imported(tmp_path, target="kind")
    assert ([one.name for one in found.fields], len(samples), rejected) == (["size", "kind"], 80, [])
    assert found.report.statistics.splits == {"train": 40, "test": 40}
    assert found.plan.notices == [
        "dataset.json is not the description of an export, so it is not used",
        "only the tables are read, not the files beside them: CITATION.bib and 2 more",
    ]
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(InvalidArgument, match=r"dataset\.json is not valid JSON") as error:
        imported(tmp_path)
    assert error.value.reason == "BAD_SCHEMA"
