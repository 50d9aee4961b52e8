"""Columns of tables: their labels and the names of their fields."""

import json
from pathlib import Path

import pytest

from deepseek.interchange.schema import read_schema
from deepseek.interchange.splits import Splitter
from tests.deepseek.interchange.imports import imported, reasons


@pytest.mark.parametrize("classes", [("+", "-"), ("none", "NA"), ("?", "yes"), ("-", "1", "a")])
def test_a_class_may_be_spelled_like_a_missing_value(tmp_path: Path, classes: tuple[str, ...]) -> None:
    path = tmp_path / "credit.csv"
    path.write_text("size,class\n" + "".join(f"{i},{classes[i % len(classes)]}\n" for i in range(30)))
    found, samples, rejected = imported(path, target="class")
    assert found.fields[-1].labels == tuple(sorted(classes))
    assert len(samples) == 30
    assert not rejected


def test_a_missing_value_is_no_class_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "wine.csv"
    path.write_text("size,class\n" + "".join(f"{i},{i % 3}\n" for i in range(30)) + "30,?\n")
    found, samples, rejected = imported(path, target="class")
    assert found.fields[-1].labels == ("0", "1", "2")
    assert len(samples) == 30
    assert list(reasons(rejected)) == ["wine.csv:32"]


def test_labels_are_normalised_and_a_broken_one_costs_only_its_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    labels = ["caf\u00e9", "cafe\u0301", "bar", "\ud800"]
    path.write_text("".join(json.dumps({"size": i, "kind": label}) + "\n" for i, label in enumerate(labels)))
    found, samples, rejected = imported(path, target="kind")
    assert found.fields[-1].labels == ("bar", "caf\u00e9")
    assert [one.values["kind"] for one in samples] == ["caf\u00e9", "caf\u00e9", "bar"]
    assert list(reasons(rejected)) == ["rows.jsonl:4"]


def test_columns_with_similar_names_are_different_fields(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("年龄,性别,x,X,a,a\n" + "".join(f"{i},{i + 1},{i + 2},{i + 3},{i + 4},u{i}\n" for i in range(8)))
    found, samples, _ = imported(path)
    assert [one.name for one in found.fields] == ["column", "column_2", "x", "x_2", "a", "a_2"]
    assert list(samples[0].values.values()) == [0, 1, 2, 3, 4, "u0"]
    found, samples, _ = imported(path, target="X", overrides=read_schema("x:skip,性别:number,a_2:skip")[1])
    assert [(one.name, one.type) for one in found.fields] == [
        ("column", "integer"),
        ("column_2", "number"),
        ("a", "integer"),
        ("x_2", "label"),
    ]
    assert samples[0].values["x_2"] == "3"


@pytest.mark.parametrize(("key", "split"), [("My ID", "The Part"), ("my_id", "the_part")])
@pytest.mark.parametrize("schema", ["", "my_id:skip,The Part:skip", "My ID:skip,the_part:skip"])
def test_the_key_and_the_split_may_be_named_like_their_fields(
    tmp_path: Path, key: str, split: str, schema: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("My ID,The Part,size\na,test,1\nb,train,2\n")
    found, samples, rejected = imported(
        path, splitter=Splitter(column=split), key=key, overrides=read_schema(schema)[1]
    )
    assert [one.name for one in found.fields] == ["size"]
    assert [(one.key, one.split) for one in samples] == [("a", "test"), ("b", "train")]
    assert not rejected


def test_lines_may_end_with_a_carriage_return_alone(tmp_path: Path) -> None:
    path = tmp_path / "old.csv"
    path.write_bytes(b'\xef\xbb\xbfsize,name\r1,"two\rlines"\r2,b\r\n3,c\r')
    _, samples, _ = imported(path)
    assert [one.values for one in samples] == [
        {"size": 1, "name": "two\rlines"},
        {"size": 2, "name": "b"},
        {"size": 3, "name": "c"},
    ]


@pytest.mark.parametrize(
    "names", [("Wine Class", "Alcohol %", "Sample No.", "Part"), ("wine_class", "alcohol", "sample_no", "part")]
)
def test_options_accept_the_name_of_the_column_and_that_of_the_field(tmp_path: Path, names: tuple[str, ...]) -> None:
    kind, alcohol, number, part = names
    path = tmp_path / "wine.csv"
    rows = "".join(f"{i % 3},{i / 4 if i else ''},s{i},{'test' if i % 2 else 'train'},{i}\n" for i in range(30))
    path.write_text("Wine Class,Alcohol %,Sample No.,Part,ash\n" + rows)
    arguments = {"target": kind, "key": number, "fills": {alcohol: "median"}}
    found, samples, rejected = imported(path, splitter=Splitter(column=part), **arguments)  # type: ignore[arg-type]
    assert {one.name: one.type for one in found.fields} == {
        "alcohol": "number",
        "ash": "integer",
        "wine_class": "label",
    }
    assert (samples[0].key, samples[0].values["alcohol"], samples[1].split, rejected) == ("s0", 3.75, "test", [])
    assert found.plan.notices == [
        "2 columns are stored as fields of other names: 'Wine Class' as 'wine_class', 'Alcohol %' as 'alcohol'",
        "missing values of alcohol are set to the median, 3.75",
    ]
    overrides = read_schema(f"{kind}:skip,{alcohol}:text,{number}:skip,{part}:skip")[1]
    found, _, _ = imported(path, overrides=overrides)
    assert {one.name: one.type for one in found.fields} == {"alcohol": "text", "ash": "integer"}
    assert found.plan.notices == ["column 'Alcohol %' is stored as the field 'alcohol'"]
