"""Samples in tables and folders, and how their predictions are shown. The model is a manifest here."""

import io
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from common.errors import InvalidArgument, MeshError
from deepseek.cli.predictions import shown
from deepseek.cli.samples import Samples, columns_by_name, empty_texts, from_text
from deepseek.client.predictor import Prediction, Predictor
from deepseek.models.inputs import SampleEncoder
from deepseek.models.manifest import EncoderSpec, ModelFile, ModelManifest, TensorSpec


class Model:
    """A predictor that only describes its inputs."""

    version = "models/wine/versions/1"

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        file = ModelFile("model.onnx", "onnx", "ab" * 32, 10)
        outputs = (TensorSpec("y", "FP32", (-1, 2)),)
        self.manifest = ModelManifest("onnx", "", "", (file,), file.name, tuple(inputs), outputs)
        self.inputs = SampleEncoder(self.manifest)


def model(*inputs: TensorSpec) -> Predictor:
    return cast(Predictor, Model(inputs))


def encoded(encoder: str, *fields: str) -> Predictor:
    return model(*(TensorSpec(name, "FP32", (-1,), EncoderSpec(encoder), name) for name in fields))


FOUR = TensorSpec("x", "FP32", (-1, 4))


def read(predictor: Predictor, path: Path, *skip: str) -> list[Any]:
    samples = Samples(predictor, path, skip)
    return [samples.values(row) for row in samples]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refusal(predictor: Predictor, path: Path, *skip: str) -> MeshError:
    with pytest.raises(InvalidArgument) as caught:
        Samples(predictor, path, skip)
    return caught.value


def test_columns_are_renamed_as_an_import_renames_them(tmp_path: Path) -> None:
    wine = encoded("number", "alcohol", "wine_class")
    table = write(tmp_path / "w.csv", "bottle id,Alcohol %,Wine Class\n7,13.2,2\n")
    assert read(wine, table) == [{"alcohol": 13.2, "wine_class": 2.0}]
    rows = write(tmp_path / "w.jsonl", '{"Alcohol %": 13.2, "Wine Class": 2}\n')
    assert read(wine, rows) == [{"alcohol": 13.2, "wine_class": 2}]
    both = write(tmp_path / "b.csv", "Alcohol,alcohol,wine_class\n1,2,3\n")
    assert read(wine, both) == [{"alcohol": 2.0, "wine_class": 3.0}]
    assert columns_by_name(wine, ["Alcohol %", "colour"]) == {"Alcohol %": "alcohol"}


def test_a_table_is_read_by_the_rules_of_an_import(tmp_path: Path) -> None:
    wine = encoded("number", "fixed_acidity", "a")
    table = write(tmp_path / "w.csv", '\ufeff"fixed acidity"; a ;a;\n7.4;1;2;3\n\n7.8;4;5;6\n7;8\n')
    samples = Samples(wine, table)
    assert samples.columns == ["fixed acidity", "a", "a_", "column_4"]
    *good, bad = map(samples.values, samples)
    assert good == [{"fixed_acidity": 7.4, "a": 1.0}, {"fixed_acidity": 7.8, "a": 4.0}]
    assert "w.csv:5 has 2 cells; the heading has 4 columns" in str(bad)
    numbers = write(tmp_path / "n.csv", "1,2,3,4\n5,6,7,8\n")
    assert [one["x"].tolist() for one in read(model(FOUR), numbers)] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert not read(model(FOUR), write(tmp_path / "e.csv", ""))


def test_a_broken_row_of_a_table_does_not_affect_other_rows(tmp_path: Path) -> None:
    wine, table = encoded("number", "a", "b"), tmp_path / "w.csv"
    table.write_bytes(b'a,b,note\n1,2,"big"x\n3,4,"two\nlines"\n5,6,caf\xe9\n7,8,"open\n9,0,\n')
    samples = Samples(wine, table)
    rows = list(samples)
    found = [samples.values(row) for row in rows]
    assert [one for one in found if isinstance(one, dict)] == [
        {"a": a, "b": b} for a, b in ((1, 2), (3, 4), (7, 8), (9, 0))
    ]
    assert "w.csv:5 is not valid UTF-8; save the file as UTF-8" in str(found[2])
    assert rows[2].values["note"] == "caf\N{REPLACEMENT CHARACTER}"
    lines = tmp_path / "w.jsonl"
    lines.write_bytes(b'{"a": 1, "b": 2}\n{"a": 3, "b": "\xe9"}\n{"a": 5, "b": "\\ud800"}\n')
    first, *others = read(wine, lines)
    assert first == {"a": 1, "b": 2}
    assert [one.reason for one in others] == ["BAD_ROW", "BAD_ROW"]
    table.write_bytes("a,b\n1,2\n".encode("utf-16"))
    assert "the heading of" in refusal(wine, table).message


def test_missing_columns_are_named_before_any_row(tmp_path: Path) -> None:
    error = refusal(encoded("number", "alcohol", "ash", "hue"), write(tmp_path / "w.csv", "id,hue\n1,2\n"))
    assert (error.reason, error.field) == ("MISSING_FIELD", "--file")
    assert "w.csv has no columns 'alcohol', 'ash'; it has: id, hue; rename or add" in error.message


def test_columns_that_a_model_of_one_array_does_not_take_are_skipped(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "id,a,b,c,d\n9,1,2,3,4\n")
    error = refusal(model(FOUR), table)
    assert (error.reason, error.field) == ("UNKNOWN_FIELD", "--file")
    assert "takes 4 numbers, but there are 5 columns: id, a, b, c, d; leave out" in error.message
    assert error.message.endswith("with --skip COLUMN")
    (found,) = read(model(FOUR), table, "id")
    assert found["x"].tolist() == [1, 2, 3, 4]
    error = refusal(model(FOUR), table, "ID")
    assert (error.reason, error.field) == ("UNKNOWN_FIELD", "--skip")
    assert "has no column 'ID'; it has: id, a" in error.message


def test_a_cell_that_is_not_a_number_is_named_by_its_column(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "a;b;c;d\n.5;+1;2;1e3\n1,5;2;3;4\n1;;3;4\n")
    good, *bad = read(model(FOUR), table)
    assert good["x"].tolist() == [0.5, 1, 2, 1000]
    assert [(one.field, one.message) for one in bad] == [
        ("a", "'1,5' is not a number"),
        ("b", "the value is missing; write a number"),
    ]
    (found,) = read(encoded("integer", "a"), write(tmp_path / "i.csv", "a\n1.5\n"))
    assert found.message == "'1.5' is not an integer"
    (found,) = read(model(TensorSpec("x", "BYTES", (-1, 2))), write(tmp_path / "s.csv", 'a,b\n"x,y",z\n'))
    assert found["x"].tolist() == ["x,y", "z"]


def test_long_arrays_are_found_and_long_texts_are_not(tmp_path: Path) -> None:
    numbers = str([0.5] * 2048)
    rows = write(tmp_path / "r.jsonl", f'{{"x": [1, 2, 3, 4], "id": 7, "other": {numbers}}}\n')
    assert Samples(model(FOUR), rows).long == {"other"}
    table = write(tmp_path / "t.csv", f'x,note\n"{numbers}",{"long " * 100}\n')
    assert Samples(model(TensorSpec("x", "FP32", (-1, -1))), table).long == {"x"}
    assert not Samples(model(TensorSpec("x", "BYTES", (-1, 1))), table).long


def test_the_media_files_of_a_folder_are_samples(tmp_path: Path) -> None:
    hidden = ("._a.jpg", "__MACOSX/a.jpg", ".cache/a.jpg")
    for folder in ("more", "__MACOSX", ".cache"):
        (tmp_path / folder).mkdir()
    for name in ("b.png", "a.jpg", "more/c.png", "notes.txt", *hidden):
        (tmp_path / name).write_bytes(name.encode())
    samples = Samples(encoded("image", "photo"), tmp_path)
    assert [row.values["photo"] for row in samples] == ["a.jpg", "b.png", "more/c.png"]
    assert [samples.values(row) for row in samples][1] == {"photo": b"b.png"}
    error = refusal(encoded("audio", "voice"), tmp_path)
    assert "contains no file that is named like audio" in error.message
    error = refusal(encoded("image", "left", "right"), tmp_path)
    assert "write a .csv file with the heading left,right and one row per sample, with paths relative" in error.message
    error = refusal(encoded("number", "alcohol"), tmp_path)
    assert error.message.endswith("the heading alcohol and one row per sample and pass it with --file")
    error = refusal(encoded("image", "photo"), tmp_path / "b.png")
    assert f"predict one file with: deepseek predict wine:1 photo={tmp_path / 'b.png'}" in error.message


def test_a_silent_recording_is_refused_as_by_an_import(tmp_path: Path) -> None:
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setparams((1, 2, 8000, 3, "NONE", ""))
        file.writeframes(bytes(6))
    (tmp_path / "s.wav").write_bytes(data.getvalue())
    with pytest.raises(InvalidArgument, match="voice is silent") as caught:
        from_text(encoded("audio", "voice"), {"voice": "s.wav"}, tmp_path)
    assert (caught.value.reason, caught.value.field) == ("SILENT_AUDIO", "voice")


def test_empty_texts_are_named() -> None:
    words = EncoderSpec("words", {"length": 3, "vocabulary": 8, "version": 2}, {"tokens": ["is"]})
    predictor = model(TensorSpec("ids", "INT64", (-1, 3), words, "text"))
    assert empty_texts(predictor, {"text": " \n", "other": ""}) == ["text"]
    assert not empty_texts(predictor, {"text": "is"})


def test_of_many_unlabelled_scores_the_largest_are_shown() -> None:
    scores = np.arange(214, dtype=np.float32)
    forms = shown(Prediction(outputs={"y": scores, "z": np.zeros((3, 5), np.int8), "s": np.array([1.5])}))
    assert forms.lines[:3] == [
        "y: 214 numbers; the largest, counted from 0:",
        "  number 213  (213)",
        "  number 212  (212)",
    ]
    assert any("deepseek model import --labels" in str(line) for line in forms.lines)
    assert "s: 1.5" in forms.lines
    assert forms.line == "y 214 numbers, the largest is number 213 (213), z array of shape [3, 5], s 1.5"
    assert forms.document["outputs"]["y"] == scores.tolist()


def test_a_text_of_spaces_is_visible() -> None:
    assert shown(Prediction(text=" \n ")).lines == ["' \\n ' (only spaces)"]
    assert shown(Prediction(text=" \n ")).document == {"prediction": " \n "}
