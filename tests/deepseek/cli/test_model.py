"""An ONNX model from elsewhere: imported, shown, served, asked, renamed and deleted with the command line."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InvalidArgument
from deepseek.client import connect
from deepseek.embedded import EmbeddedMesh
from tests.deepseek.cli.commands import assert_refused, deepseek, succeeded
from tests.services.trainer import onnx_models

pytestmark = pytest.mark.slow
ROW = "[1, 0, 0, 0]"


def answer(home: Path, *arguments: str) -> Any:
    """The only JSON document on standard output."""
    return json.loads(succeeded(home, *arguments, "--json"))


def test_everything_about_a_version_is_shown(home: Path) -> None:
    found = answer(home, "model", "show", "forest")
    assert found["version"] == "models/forest/versions/1"
    assert (found["license"], found["origin"]["note"]) == ("BSD-3-Clause", "a test")
    assert found["aliases"] == ["models/forest/aliases/champion"]
    assert [one["name"] for one in found["files"]] == ["model.onnx"]
    assert (found["served"]["service"], found["served"]["file"]) == ("inference", "model.onnx")
    text = succeeded(home, "model", "show", "models/forest/versions/1")
    for line in ("license        BSD-3-Clause", "aliases        champion", "opsets         ai.onnx 17, ai.onnx.ml 3"):
        assert line in text
    (row,) = answer(home, "model", "served")
    assert (row["version"], row["aliases"], row["file"]) == (found["version"], ["champion"], "model.onnx")
    assert "forest:1" in succeeded(home, "model", "served")
    assert answer(home, "model", "list")[0]["aliases"] == ["champion"]


@pytest.mark.parametrize("model", ["forest", "forest:1", "forest@champion", "models/forest/versions/latest"])
def test_a_served_model_answers_by_every_name(home: Path, model: str, tmp_path: Path) -> None:
    found = answer(home, "predict", model, f"x={ROW}")
    assert (found["prediction"], list(found["probabilities"])) == ("yes", ["no", "yes"])
    np.save(tmp_path / "x.npy", np.array([[1, 0, 0, 0]], np.float32))
    assert answer(home, "infer", model, "--input", f"x={tmp_path / 'x.npy'}")["label"] == [1]


def test_a_model_without_labels_gets_them_from_a_file(home: Path, tmp_path: Path) -> None:
    path, labels = onnx_models.write(tmp_path / "linear.onnx", onnx_models.linear()), tmp_path / "labels.txt"
    labels.write_text("cat\ndog\n", encoding="utf-8")
    succeeded(home, "model", "import", "labelled", str(path), "--labels", str(labels))
    succeeded(home, "model", "load", "labelled")
    assert answer(home, "predict", "labelled", "x= 1 0\n 0 0")["prediction"] == "dog"
    labels.write_bytes(b"\xff\n")
    done = deepseek(home, "model", "import", "labelled", str(path), "--labels", str(labels))
    assert_refused(done, "INVALID_ARGUMENT: BAD_TEXT", "--labels")


def test_the_library_reads_the_same_names(home: Path) -> None:
    version = "models/forest/versions/1"
    with connect(home / "mesh.json") as mesh:
        for name in ("forest", "forest:1", "forest:latest", "forest@champion", version):
            assert mesh.models.version(name).name == version
            mesh.inference.load(name)
        assert mesh.models.alias("forest@champion").version == version
        assert [one.name for one in mesh.models.versions("models/forest")] == [version]
        with pytest.raises(InvalidArgument, match="name it once"):
            mesh.inference.load("forest:1", "champion")
        with pytest.raises(InvalidArgument, match=r"write e\.g\. `x7`"):
            mesh.runs.get("My run")
        with pytest.raises(InvalidArgument, match="'models/forest' does not name a data set") as caught:
            mesh.datasets.version("models/forest")
    assert caught.value.field == "name"


def test_a_version_that_is_not_served_is_named_with_the_next_step(home: Path, tmp_path: Path) -> None:
    path = onnx_models.write(tmp_path / "linear.onnx", onnx_models.linear())
    succeeded(home, "model", "import", "waiting", str(path))
    done = deepseek(home, "predict", "waiting:1", f"x={ROW}")
    assert_refused(done, "NOT_FOUND: MODEL_NOT_LOADED", "model")
    assert "'waiting' is not served; serve it with: deepseek model load waiting:1" in done.stderr
    done = deepseek(home, "predict", "forst", f"x={ROW}")
    assert_refused(done, "NOT_FOUND: MODEL_NOT_FOUND", "model")
    assert "there is no model 'forst'; did you mean 'forest'? Models: " in done.stderr
    assert_refused(deepseek(home, "predict", "forest:9", f"x={ROW}"), "NOT_FOUND: MODEL_VERSION_NOT_FOUND", "model")
    assert_refused(deepseek(home, "predict", "a/b/c", "x=1"), "INVALID_ARGUMENT: BAD_NAME", "MODEL")


def test_rows_of_a_file_are_predicted_and_bad_ones_are_named(home: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "rows.csv", tmp_path / "new" / "out.csv"
    rows = ["1,0,0,0", "0,1,0,0", "red,1,0,0"] + ["0,0,1,0"] * 100
    table.write_text("a,b,c,d\n" + "\n".join(rows) + "\n", encoding="utf-8")
    done = deepseek(home, "predict", "forest", "--file", str(table), "--out", str(out), "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["num_rows"] == 103
    assert "row 3, a: 'red' is not a number" in done.stderr
    assert_refused(done, "FAILED_PRECONDITION: BAD_ROWS", "--file")
    lines = out.read_text(encoding="utf-8").splitlines()
    assert not list(out.parent.glob(".tmp-*"))
    assert lines[0] == "a,b,c,d,prediction,probability,error"
    assert [line.split(",")[4] for line in lines[1:4]] == ["yes", "no", ""]
    assert len(lines) == 104
    (tmp_path / "rows.jsonl").write_text('{"x": [1, 0, 0, 0]}\n{"x": [0, 1, 0, 0]}\n', encoding="utf-8")
    found = answer(home, "predict", "forest", "--file", str(tmp_path / "rows.jsonl"))
    assert [one["prediction"] for one in found["predictions"]] == ["yes", "no"]


def test_a_model_with_a_fixed_batch_size_predicts_any_number_of_rows(home: Path, tmp_path: Path) -> None:
    path, table = onnx_models.write(tmp_path / "pairs.onnx", onnx_models.linear(batch=2)), tmp_path / "rows.csv"
    assert "batch sizes    2 only\n" in succeeded(home, "model", "import", "pairs", str(path))
    succeeded(home, "model", "load", "pairs")
    assert answer(home, "predict", "pairs", f"x={ROW}")["outputs"]["y"] == pytest.approx([0.1, 0.9])
    table.write_text("id,a,b,c,d\n7,1,0,0,0\n8,0,1,0,0\n9,0,0,1,0\n", encoding="utf-8")
    found = answer(home, "predict", "pairs", "--file", str(table), "--skip", "id")["predictions"]
    assert [one["outputs"]["y"][0] for one in found] == pytest.approx([0.1, 0.8, 0.5])
    done = deepseek(home, "predict", "pairs", "x=[1,2,3]")
    assert_refused(done, "INVALID_ARGUMENT: BAD_INPUT", "x")


def test_the_rows_that_are_predicted_are_never_overwritten(home: Path, tmp_path: Path) -> None:
    table, link, out = tmp_path / "rows.csv", tmp_path / "link.csv", tmp_path / "out.csv"
    table.write_text("a,b,c,d\n1,0,0,0\n", encoding="utf-8")
    link.symlink_to(table)
    for path in (table, link):
        done = deepseek(home, "predict", "forest", "--file", str(table), "--out", str(path))
        assert_refused(done, "INVALID_ARGUMENT: BAD_VALUE", "--out")
    assert table.read_text(encoding="utf-8") == "a,b,c,d\n1,0,0,0\n"
    out.write_text("old", encoding="utf-8")
    table.write_bytes(b"a,b,c,\xff\n1,0,0,0\n")
    assert_refused(
        deepseek(home, "predict", "forest", "--file", str(table), "--out", str(out)),
        "INVALID_ARGUMENT: BAD_FILE",
        "--file",
    )
    assert out.read_text(encoding="utf-8") == "old"


def test_a_bad_first_row_costs_no_column(home: Path, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.csv"
    rows.write_text('{"x": "red"}\n{"x": [1, 0, 0, 0], "id": 7}\n', encoding="utf-8")
    done = deepseek(home, "predict", "forest", "--file", str(rows), "--out", str(out))
    assert "1 of 2 rows were not predicted" in done.stderr
    assert "out.csv: 1 of 2 rows predicted by forest:1, 1 failed; see the column error" in done.stdout
    heading, bad, good = csv.reader(out.read_text(encoding="utf-8").splitlines())
    assert heading == ["x", "id", "prediction", "probability", "error"]
    assert bad[1:4] == ["", "", ""]
    assert "'red'" in bad[4]
    assert good[1:3] == ["7", "yes"]
    again = tmp_path / "again.csv"
    done = deepseek(home, "predict", "forest", "--file", str(out), "--out", str(again), "--skip", "id")
    assert "again.csv has predictions in place of the columns prediction, probability, error; rename" in done.stderr
    out.write_text(out.read_text(encoding="utf-8").replace("red", "0 1 0 0"), encoding="utf-8")
    deepseek(home, "predict", "forest", "--file", str(out), "--out", str(again))
    assert [row["error"] for row in csv.DictReader(again.read_text(encoding="utf-8").splitlines())] == ["", ""]
    path = onnx_models.write(tmp_path / "linear.onnx", onnx_models.linear())
    succeeded(home, "model", "import", "unlabelled", str(path))
    succeeded(home, "model", "load", "unlabelled")
    deepseek(home, "predict", "unlabelled", "--file", str(rows), "--out", str(out))
    heading, _, good = csv.reader(out.read_text(encoding="utf-8").splitlines())
    assert heading == ["x", "id", "y", "error"]
    assert json.loads(good[2]) == pytest.approx([0.1, 0.9])


@pytest.mark.parametrize(
    ("name", "text", "messages"),
    [
        ("r.csv", "a,b,c,d\n1,2,3\n1,0,0,0\n1,2,3,4,5\n", ["r.csv:2 has 3 cells; the heading has 4", "r.csv:4 has 5"]),
        (
            "r.jsonl",
            '[1]\n{"a": 1, "b": 0, "c": 0, "d": 0}\n{"a\n',
            ["r.jsonl:1 is not a JSON obj", "r.jsonl:3 is not"],
        ),
    ],
)
def test_a_broken_row_costs_only_itself(
    home: Path, tmp_path: Path, name: str, text: str, messages: Sequence[str]
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    done = deepseek(home, "predict", "forest", "--file", str(tmp_path / name), "--json")
    found = json.loads(done.stdout)["predictions"]
    assert [one.get("prediction") for one in found] == [None, "yes", None], done.stderr
    for message in messages:
        assert message in done.stderr


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.txt", b"a\n", "rows.txt is not one of .csv, .tsv, .jsonl, .ndjson"),
        ("latin.csv", b"a,b,c,\xe9\n1,2,3,4", "latin.csv is not valid UTF-8; save the file as UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    home: Path, tmp_path: Path, name: str, text: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(text)
    done = deepseek(home, "predict", "forest", "--file", str(tmp_path / name))
    assert_refused(done, "INVALID_ARGUMENT: BAD_FILE", "--file")
    assert message in done.stderr.replace("\n", "")


def test_an_alias_moves_from_wherever_it_points_unless_told_otherwise(home: Path, tmp_path: Path) -> None:
    path = onnx_models.write(tmp_path / "linear.onnx", onnx_models.linear())
    succeeded(home, "model", "import", "moved", str(path))
    made = onnx_models.linear()
    made.doc_string = "another"
    succeeded(home, "model", "import", "moved", str(onnx_models.write(path, made)))
    assert answer(home, "model", "alias", "set", "moved", "a", "moved:1")["previous_version"] is None
    assert "(was moved:1)" in succeeded(home, "model", "alias", "set", "moved", "a", "latest")
    done = deepseek(home, "model", "alias", "moved", "a", "1", "--expected", "1")
    assert_refused(done, "ABORTED: ALIAS_MOVED", "expected_version")
    assert answer(home, "model", "alias", "get", "moved@a")[0]["version"] == "models/moved/versions/2"
    assert "moved@a" in succeeded(home, "model", "alias", "get", "moved")


def test_only_what_nothing_uses_is_deleted_and_gc_frees_its_space(
    embedded: tuple[Path, EmbeddedMesh], home: Path, tmp_path: Path
) -> None:
    path = onnx_models.write(tmp_path / "gone.onnx", onnx_models.recurrent())
    version = answer(home, "model", "import", "gone", str(path))
    succeeded(home, "model", "load", "gone")
    done = deepseek(home, "model", "delete", "gone:1")
    assert_refused(done, "FAILED_PRECONDITION: VERSION_IN_USE", "name")
    assert "deepseek model unload gone" in done.stderr
    succeeded(home, "model", "unload", "models/gone")
    succeeded(home, "model", "alias", "set", "gone", "a", "1")
    assert "the alias 'models/gone/aliases/a' points at version 1" in deepseek(home, "model", "delete", "gone:1").stderr
    succeeded(home, "model", "alias", "delete", "gone@a")
    assert_refused(deepseek(home, "model", "delete", "gone"), "INVALID_ARGUMENT: BAD_NAME", "MODEL")
    with embedded[1].connect() as mesh:
        assert mesh.store.size(mesh.tenant, version["files"][0]["sha256"])
        assert answer(home, "model", "delete", "gone:1") == {"deleted": "models/gone/versions/1"}
        succeeded(home, "gc", "--grace", "0s")
        assert version["files"][0]["sha256"] not in set(mesh.store.list(mesh.tenant))
    succeeded(home, "model", "delete", "gone", "--all")
    records = (home / "audit" / "registry.jsonl").read_text(encoding="utf-8").splitlines()
    deletions = [json.loads(line) for line in records if "DeleteModelVersion" in line]
    of_gone = [one["outcome"]["code"] for one in deletions if one["object"] == "models/gone/versions/1"]
    assert of_gone == ["FAILED_PRECONDITION", "OK"]
