"""Importing an export gives the samples and the schema back."""

import json
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import FailedPrecondition
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.interchange.exporting import FORMATS, export
from deepseek.interchange.importing import Import
from deepseek.interchange.opening import open_source
from tests.deepseek.interchange.sources import sound_file
from tests.harness.images import image_file

LABELS = (" a", "b", "10", "é")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = {
    "image": st.builds(image_file, st.integers(0, 3), kind=st.sampled_from(["PNG", "JPEG", "WEBP"])),
    "audio": st.builds(sound_file, st.sampled_from([0, 0.5, 3]), kind=st.sampled_from(["WAV", "FLAC", "OGG"])),
    "text": TEXT,
    "label": st.sampled_from(LABELS),
    "integer": st.integers(-(1 << 63), (1 << 63) - 1),
    "number": st.floats(allow_nan=False, allow_infinity=False),
    "bytes": st.binary(max_size=8),
}
KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Cf"]), min_size=1, max_size=12)


@st.composite
def datasets(draw: st.DrawFn) -> tuple[tuple[Field, ...], list[Sample]]:
    fields = tuple(
        Field(f"f{i}_{kind}", kind, draw(st.booleans()), LABELS if kind == "label" else ())
        for i, kind in enumerate(draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=4)))
    )
    samples = []
    for key in draw(st.lists(KEYS, unique=True, min_size=1, max_size=4)):
        length = draw(st.integers(0, 2))
        values = {}
        for one in fields:
            value = VALUES[one.type]
            values[one.name] = draw(st.lists(value, min_size=length, max_size=length) if one.repeated else value)
        samples.append(Sample(key, draw(st.sampled_from(["train", "test", "part_2-b"])), values))
    return fields, sorted(samples, key=lambda one: one.split)


@pytest.mark.parametrize("form", FORMATS)
@given(data=datasets())
@settings(max_examples=25, deadline=None)
def test_importing_an_export_gives_the_samples_back(form: str, data: tuple[tuple[Field, ...], list[Sample]]) -> None:
    fields, samples = data
    with tempfile.TemporaryDirectory() as folder:
        assert export(samples, fields, Path(folder) / "out", form) == len(samples)
        found = Import(open_source(f"{folder}/out"))
        assert found.fields == fields
        assert sorted(found, key=lambda one: one.key) == sorted(samples, key=lambda one: one.key)
        assert not found.report.rejected


def test_an_export_to_a_folder_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(FailedPrecondition) as error:
        export([], [Field("n", "integer")], tmp_path, "folders")
    assert error.value.reason == "OUTPUT_EXISTS"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_parquet_export_describes_its_images_to_hugging_face(tmp_path: Path) -> None:
    fields = (Field("image", "image"), Field("n", "integer", repeated=True))
    export([Sample("k", "train", {"image": image_file(), "n": [1, 2]})], fields, tmp_path, "parquet")
    metadata = pq.read_schema(tmp_path / "train-00000.parquet").metadata
    features = json.loads(metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["n"] == {"feature": {"dtype": "int64", "_type": "Value"}, "_type": "Sequence"}
