"""Missing values: which columns are left out, how cells are filled, and what the import says about them."""

from pathlib import Path

import pytest

from common.errors import InvalidArgument
from deepseek.interchange.schema import read_schema
from tests.deepseek.interchange.imports import imported


def _table(folder: Path, header: str, rows: list[str]) -> Path:
    path = folder / "rows.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize(("num_empty", "kept"), [(30, True), (31, False)])
def test_a_column_of_any_type_that_is_mostly_empty_is_left_out(tmp_path: Path, num_empty: int, kept: bool) -> None:
    rows = [f"{i},,  " if i < num_empty else f"{i},word {i},{i}.5" for i in range(60)]
    path = _table(tmp_path, "id,note,size", rows)
    found, _, _ = imported(path)
    assert {one.name for one in found.fields} == ({"id", "note", "size"} if kept else {"id"})
    if not kept:
        assert found.plan.notices == [
            "note has a value in only 29 of 60 rows and is left out; --schema 'note:text' keeps it",
            "size has a value in only 29 of 60 rows and is left out; --fill 'size=VALUE' keeps it",
        ]
        found, _, _ = imported(path, overrides=read_schema("note:text")[1])
        assert {one.name: one.type for one in found.fields} == {"id": "integer", "note": "text"}


def test_all_missing_values_of_a_row_are_counted_and_each_field_gets_a_hint(tmp_path: Path) -> None:
    rows = ["1.5,2,x", ",,y", "2.5,,x", "3.5,4,", "4.5,6,y", "8.5,8,y", "6.5,9,x"]
    path = _table(tmp_path, "ash,age,kind", rows)
    found, samples, rejected = imported(path, target="kind")
    assert found.report.missing == {"ash": 1, "age": 2, "kind": 1}
    assert (len(samples), {one.reason for one in rejected}) == (4, {"MISSING_FIELD"})
    assert found.notes() == [
        "rows without a value of ash are kept aside: 1; --fill ash=VALUE or --fill ash=median keeps them",
        "rows without a value of age are kept aside: 2; --fill age=VALUE or --fill age=median keeps them",
        "rows without a value of kind are kept aside: 1; --fill kind=VALUE keeps them",
    ]
    found, samples, rejected = imported(path, fills={"ash": "mean", "age": "median", "kind": "x"}, target="kind")
    assert (len(samples), rejected, found.notes()) == (7, [], [])
    assert found.plan.notices == [
        "missing values of ash are set to the mean, 4.5",
        "missing values of age are set to the median, 6",
    ]
    assert samples[1].values == {"ash": 4.5, "age": 6, "kind": "y"}


def test_a_mean_is_refused_if_no_pass_over_the_rows_computes_it(tmp_path: Path) -> None:
    path, schema = _table(tmp_path, "ash,n", ["1,1", ",2"]), tmp_path / "schema.json"
    schema.write_text('[{"name": "ash", "type": "number"}]')
    found, _, _ = imported(path, fields=read_schema(str(schema))[0])
    assert found.notes() == ["rows without a value of ash are kept aside: 1; --fill ash=VALUE keeps them"]
    with pytest.raises(InvalidArgument, match="only if the schema is inferred; use --fill ash=VALUE"):
        imported(path, fields=read_schema(str(schema))[0], fills={"ash": "mean"})
    with pytest.raises(InvalidArgument, match="ash has no numbers, so it has no median"):
        imported(
            _table(tmp_path, "ash,n", [",1", ",2"]), overrides=read_schema("ash:number")[1], fills={"ash": "median"}
        )
