"""From a raw file to predictions, with the four commands that docs/training.md shows."""

import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.mesh import embedded_mesh

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_CHARACTERS = {"field": "text", "encoder": {"name": "characters", "params": {"length": 48, "vocabulary": 64}}}
SMALL_LANGUAGE_MODEL = {
    "model": {"name": "transformer_lm", "params": {"width": 16, "depth": 1, "num_heads": 2, "dropout": 0.0}},
    "inputs": [{**_CHARACTERS, "input": "text"}],
    "target": _CHARACTERS,
    "loss": {"name": "next_token_cross_entropy"},
    "metrics": [{"name": "next_token_accuracy"}],
    "optimizer": {"name": "adamw"},
    "epochs": 1,
    "batch_size": 16,
}
"""tests/deepseek/test_tasks.py checks the spec of the task; this one takes a second."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs a command in one folder against one mesh, and checks its exit status."""
    home, folder = tmp_path_factory.mktemp("mesh") / "home", tmp_path_factory.mktemp("folder")
    draw = random.Random(0)
    points = [(draw.uniform(-1, 1), draw.uniform(-1, 1)) for _ in range(200)]
    lines = [f"{x:.3f},{y:.3f},no {i},{'above' if y > x else 'below'}" for i, (x, y) in enumerate(points)]
    (folder / "rhyme.txt").write_text("row, row, row your boat\ngently down the stream\n" * 20, encoding="utf-8")
    (folder / "points.csv").write_text("\n".join(["x,y,name,side", *lines]) + "\n", encoding="utf-8")

    def command(*arguments: str, status: int = 0) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [Path(sys.executable).with_name("deepseek"), *arguments],
            env={**os.environ, "DEEPSEEK_HOME": str(home), "COLUMNS": "200"},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    with embedded_mesh(home):
        command("dataset", "import", "points", "points.csv", "--target", "side", "--test-share", "0.25")
        yield command


def test_a_table_becomes_a_served_model(run: Run) -> None:
    trained = run("train", "--task", "tabular", "--dataset", "points", "--model", "points", "--json")
    result = json.loads(trained.stdout)
    assert result["model_version"] == "models/points/versions/1"
    assert result["metrics"]["accuracy"] > 0.9
    expected = "wrote points.tabular.json; edit it and run `deepseek train points.tabular.json --model points`"
    assert expected in trained.stderr
    assert "10% of the split train is held out to choose the best epoch" in " ".join(trained.stderr.split())
    assert "note: the column name (text) is left out, because of its type" in trained.stderr
    again = json.loads(run("train", "points.tabular.json", "--model", "points", "--json").stdout)
    assert (again["run"], again["model_version"]) == (result["run"], result["model_version"])
    run("model", "load", "points")
    for y, side in (("0.9", "above"), ("-0.9", "below")):
        assert run("predict", "points", "x=0", f"y={y}").stdout.split()[0] == side
    refused = run("ask", "points.csv", "what side?", "--model", "points", status=1).stderr
    assert "FAILED_PRECONDITION: UNSUITABLE_MODEL" in refused
    assert "use: deepseek predict points x=VALUE y=VALUE" in " ".join(refused.split())


def test_a_spec_can_be_written_without_training(run: Run) -> None:
    count = len(json.loads(run("run", "list", "--all", "--json").stdout))
    arguments = ("train", "--task", "tabular", "--dataset", "points", "--out", "few.json", "--epochs", "3")
    written = json.loads(run(*arguments, "--spec-only", "--model", "few", "--int8", "--json").stdout)
    assert (written["file"], written["spec"]["epochs"]) == ("few.json", 3)
    printed = run(*arguments, "--spec-only")
    assert printed.stdout == ""
    assert '"epochs": 3' in printed.stderr
    assert len(json.loads(run("run", "list", "--all", "--json").stdout)) == count
    trained = json.loads(run("train", "few.json", "--epochs", "2", "--json").stdout)
    shown = json.loads(run("run", "show", trained["run"], "--json").stdout)
    assert shown["spec"]["epochs"] == 2


def test_a_text_file_becomes_a_model_that_writes(run: Run, tmp_path: Path) -> None:
    run("dataset", "import", "rhyme", "rhyme.txt", "--passage", "48", "--test-share", "0.2")
    (tmp_path / "rhyme.json").write_text(json.dumps(SMALL_LANGUAGE_MODEL), encoding="utf-8")
    run("train", str(tmp_path / "rhyme.json"), "--dataset", "rhyme", "--model", "rhyme")
    run("model", "load", "rhyme")
    again = [run("predict", "rhyme", "text=row, ", "--tokens", "20", "--seed", "7").stdout for _ in range(2)]
    assert again[0] == again[1]
    assert len(again[0].rstrip("\n")) <= 20
    rows, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    rows.write_text('text\ngently do\n""\n"row, r"\n', encoding="utf-8")
    writing = ("--tokens", "1", "--temperature", "0")
    done = run("predict", "rhyme:1", "--file", str(rows), "--out", str(out), *writing, status=1)
    assert "row 2, text: the text is empty" in done.stderr
    with out.open(encoding="utf-8", newline="") as file:
        assert [len(row[-2]) for row in csv.reader(file)][1:] == [1, 0, 1]
    refused = run("predict", "points", "x=0", "y=1", "--tokens", "5", status=1)
    assert "field: --tokens" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "error", "field"),
    [
        (("--dataset", "points"), "MISSING_FIELD", "spec"),
        (("--task", "tabular"), "MISSING_FIELD", "--dataset"),
        (("points.csv", "--spec-only"), "MISSING_FIELD", "--task"),
        (("points.csv", "--target", "side"), "MISSING_FIELD", "--task"),
        (("points.csv", "--int8"), "MISSING_FIELD", "--model"),
        (("points.csv", "--model", "m", "--int8-max-loss", "0.5"), "MISSING_FIELD", "--int8"),
        (("--task", "tabular", "--dataset", "points", "--spec-only", "--fresh"), "BAD_VALUE", "--fresh"),
        (("--task", "segmentation", "--dataset", "points"), "UNKNOWN_TASK", "task"),
        (("--task", "image-classification", "--dataset", "points"), "UNSUITABLE_DATA", "dataset"),
        (("--task", "tabular", "--dataset", "points", "--target", "z"), "UNKNOWN_FIELD", "target"),
        (("--task", "tabular", "--dataset", "My Data"), "BAD_NAME", "--dataset"),
        (("--task", "tabular", "--dataset", "points", "--out", "points.csv"), "SPEC_EXISTS", "--out"),
    ],
)
def test_a_spec_that_cannot_be_derived_is_refused(run: Run, arguments: tuple[str, ...], error: str, field: str) -> None:
    done = run("train", *arguments, status=1)
    assert f": {error}\n  field: {field}\n" in done.stderr
    assert "Traceback" not in done.stderr
