"""`deepseek tune`: studies and trials on the command line."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, Group

from deepseek.cli import tune_run
from deepseek.cli.tune_table import StudyTable
from deepseek.client import MeshFile, ServiceAddress, connect
from tests.deepseek.cli.commands import deepseek, succeeded, suggested
from tests.harness.in_process import service_in_process
from tests.services.tuner.specs import SPEC


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A mesh that consists of a tuner."""
    with service_in_process("tuner", tmp_path) as server:
        MeshFile({"tuner": ServiceAddress(server.address)}).write(tmp_path / "mesh.json")
        (tmp_path / "study.json").write_text(json.dumps(SPEC), encoding="utf-8")
        yield tmp_path


def read(home: Path, *arguments: str) -> Any:
    return json.loads(succeeded(home, "tune", *arguments, "--json"))


def test_a_study_is_created_watched_shown_stopped_and_deleted(home: Path) -> None:
    assert "there are no studies" in succeeded(home, "tune", "list")
    created = succeeded(home, "tune", "create", "digits", str(home / "study.json"))
    assert created == "created studies/digits; watch its trials with deepseek tune watch digits\n"
    assert "no trial has succeeded and satisfies the constraints" in succeeded(home, "tune", "best", "digits")
    with connect(home / "mesh.json") as mesh:
        first, second, third = mesh.studies.suggest("digits", "worker", 3)
        mesh.studies.measure(first.name, 2, loss=0.75)
        mesh.studies.complete(first.name, loss=0.5)
        mesh.studies.fail(second.name, "too hot")

    heading, row = succeeded(home, "tune", "list").splitlines()
    assert heading.split() == ["study", "state", "ended", "algorithm", "objectives"]
    assert row.split() == ["digits", "active", "2/3", "tpe", "minimize", "loss"]
    heading, *rows = succeeded(home, "tune", "trials", "digits").splitlines()
    assert heading.split() == ["trial", "state", "step", "metrics", "parameters", "run"]
    assert [row.split()[:2] for row in rows] == [["1", "succeeded"], ["2", "failed"], ["3", "active"]]
    assert "loss 0.5" in rows[0]
    assert "WORKER_FAILED: too hot" in rows[1]
    assert [one["trial"] for one in read(home, "best", "digits")] == [first.name]
    shown = read(home, "show", "digits")
    assert shown["best"][0]["last_metrics"] == {"loss": 0.75}
    assert shown["spec"]["algorithm"]["name"] == "tpe"

    watched = deepseek(home, "tune", "watch", "digits", "--stored")
    assert "trial 2 is failed: WORKER_FAILED: too hot" in watched.stderr
    assert succeeded(home, "tune", "stop", "digits") == "stopped studies/digits; 1 trials have not ended\n"
    with connect(home / "mesh.json") as mesh:
        mesh.studies.end_early(third.name)
    states = [one["state"] for one in read(home, "watch", "digits")]
    assert states == ["SUCCEEDED", "FAILED", "STOPPED"]
    assert succeeded(home, "tune", "delete", "digits") == "deleted studies/digits\n"
    failed = deepseek(home, "tune", "show", "digits")
    assert failed.returncode == 1
    assert "STUDY_NOT_FOUND" in failed.stderr


def test_a_wrong_spec_is_explained(home: Path) -> None:
    (home / "study.json").write_text(json.dumps({**SPEC, "algorithm": {"name": "tarot"}}), encoding="utf-8")
    failed = deepseek(home, "tune", "create", "digits", str(home / "study.json"))
    assert failed.returncode == 1
    assert "unknown algorithm 'tarot'; known: " in failed.stderr
    assert "spec.algorithm.name" in failed.stderr


def test_a_value_that_is_not_finite_is_valid_json(home: Path) -> None:
    succeeded(home, "tune", "create", "digits", str(home / "study.json"))
    with connect(home / "mesh.json") as mesh:
        (trial,) = mesh.studies.suggest("digits", "worker")
        mesh.studies.complete(trial.name, loss=float("nan"))
    (found,) = read(home, "trials", "digits")
    assert found["metrics"] == {"loss": "nan"}
    assert found["failure_reason"] == "NOT_FINITE"


def test_the_live_table_is_not_drawn_for_every_change(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    render = StudyTable.render

    def noted(table: StudyTable) -> Group:
        drawn.append(len(table.trials))
        return render(table)

    monkeypatch.setattr(StudyTable, "render", noted)
    monkeypatch.setattr(tune_run, "is_watched", lambda console: True)
    monkeypatch.setattr(tune_run, "error_console", Console(file=io.StringIO(), force_terminal=True))
    with connect(home / "mesh.json") as mesh:
        study = mesh.studies.create("many", {**SPEC, "algorithm": {"name": "random"}})
        for worker in range(4):
            mesh.studies.suggest("many", f"worker-{worker}", 100)
        table = tune_run.watch_study(mesh, study, stored=True)
    assert len(table.trials) == 400
    assert drawn[-1] == 400
    assert len(drawn) < 100


def test_names_of_studies_are_completed(home: Path) -> None:
    succeeded(home, "tune", "create", "digits", str(home / "study.json"))
    assert suggested(home, "tune", "show", "d") == ["digits"]
