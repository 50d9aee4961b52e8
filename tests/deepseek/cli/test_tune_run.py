"""`deepseek tune SPEC`: a study whose trials are training runs, from a file."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from common.errors import InvalidArgument
from deepseek.cli.spec_files import read_spec
from deepseek.cli.tune_table import StudyTable, trial_document
from protos.tuner.v1 import tuner_pb2 as pb
from tests.deepseek.cli.commands import assert_refused, deepseek, succeeded
from tests.harness.processes import wait_until
from tests.services.tuner.mesh import TunerMesh
from tests.services.tuner.specs import RUN_STUDY_SPEC


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TunerMesh]:
    with ExitStack() as owned:
        yield TunerMesh(tmp_path_factory.mktemp("tune") / "home", owned)


def write(path: Path, mesh: TunerMesh, *, run: Mapping[str, Any] | None = None, **changes: Any) -> str:
    """Writes a file with a study of short runs, and returns its path."""
    document = {
        "study": RUN_STUDY_SPEC,
        "run": mesh.spec(**{"epochs": 1, **(run or {})}),
        "fields": {"batch": "batch_size"},
        "budget": {"max_trials": 2, "max_parallel": 2},
        **changes,
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    return str(path)


@pytest.mark.slow
def test_a_study_is_run_from_a_file_and_continued_with_a_greater_budget(mesh: TunerMesh, tmp_path: Path) -> None:
    home = mesh.processes.home
    done = deepseek(home, "tune", write(tmp_path / "pictures.json", mesh))
    assert done.returncode == 0, done.stderr
    first, heading, *rows, last = done.stdout.splitlines()
    assert first == "studies/pictures runs"
    assert heading.split() == ["trial", "state", "step", "metrics", "parameters", "run"]
    (best,) = rows
    assert best.split()[1:3] == ["succeeded", "1"]
    assert last == "studies/pictures: succeeded, trials: 2 ended; max_trials is reached"
    assert "trial 1 is succeeded at step 1 (runs/" in done.stderr
    assert "succeeded: trials: 2 ended; max_trials is reached; 2 of 2 trials, 2 epochs, " in done.stderr
    found = json.loads(succeeded(home, "tune", "trials", "pictures", "--json"))
    assert [one["state"] for one in found] == ["SUCCEEDED", "SUCCEEDED"]
    assert "accuracy" in succeeded(home, "run", "show", found[0]["run"])

    again = json.loads(succeeded(home, "tune", "run", str(tmp_path / "pictures.json"), "--json"))
    assert (again["run"]["state"], again["run"]["num_trials"]) == ("succeeded", 2)
    more = write(tmp_path / "pictures.json", mesh, budget={"max_trials": 3, "max_parallel": 2})
    more_done = json.loads(succeeded(home, "tune", more, "--json"))
    assert (more_done["run"]["end_reason"], more_done["run"]["num_trials"]) == ("MAX_TRIALS", 3)
    shown = succeeded(home, "tune", "show", "pictures")
    assert "its run is succeeded: trials: 3 ended; max_trials is reached" in shown
    watched = deepseek(home, "tune", "watch", "pictures")
    assert watched.returncode == 0
    assert "trial 3 is succeeded" in watched.stderr

    other = write(tmp_path / "pictures.json", mesh, study={**RUN_STUDY_SPEC, "seed": 6})
    assert_refused(deepseek(home, "tune", other), "ALREADY_EXISTS: STUDY_EXISTS", "--name")


@pytest.mark.slow
def test_ctrl_c_detaches_and_says_how_to_watch_and_to_stop(mesh: TunerMesh, tmp_path: Path) -> None:
    home = mesh.processes.home
    spec = write(tmp_path / "endless.yaml", mesh, run={"epochs": 100_000}, budget={"max_seconds": 1000})
    detached = json.loads(succeeded(home, "tune", spec, "--name", "digits", "--detach", "--json"))
    assert detached["run"]["state"] == "running"
    command = subprocess.Popen(
        [Path(sys.executable).with_name("deepseek"), "tune", "watch", "digits"],
        env={**os.environ, "DEEPSEEK_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stderr is not None
    line = command.stderr.readline()
    assert "running" in line or "trial 1 is active" in line
    command.send_signal(signal.SIGINT)
    _, rest = command.communicate(timeout=60)
    assert command.returncode == 130
    assert "stopped watching; studies/digits continues" in rest
    assert "watch it: deepseek tune watch digits" in rest
    assert "stop it:  deepseek tune stop digits" in rest
    succeeded(home, "tune", "stop", "digits")
    wait_until(lambda: mesh.client.studies.get("digits").run.state == pb.STUDY_RUN_STATE_STOPPED, "the end")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        ({"budgets": {}}, "INVALID_ARGUMENT: UNKNOWN_FIELD", "spec.budgets"),
        ({"budget": {}}, "INVALID_ARGUMENT: MISSING_FIELD", "budget"),
        ({"study": {"parameters": {}}}, "INVALID_ARGUMENT: BAD_VALUE", "study.parameters"),
        ({"run": {"epoch": 3}}, "INVALID_ARGUMENT: UNKNOWN_FIELD", "run.epoch"),
        ({"fields": {"depth": "seed"}}, "INVALID_ARGUMENT: UNKNOWN_FIELD", "fields.depth"),
        ({"fields": {"batch": "target.type"}}, "INVALID_ARGUMENT: UNKNOWN_FIELD", "run.target.type"),
        ({"name": "a/b/c"}, "INVALID_ARGUMENT: BAD_NAME", "name"),
    ],
)
def test_mistakes_in_the_file_are_reported_with_their_places(
    mesh: TunerMesh, tmp_path: Path, change: dict[str, Any], error: str, field: str
) -> None:
    spec = write(tmp_path / "wrong.json", mesh, **change)
    assert_refused(deepseek(mesh.processes.home, "tune", spec), error, field)


def test_a_typo_of_a_command_is_no_file(tmp_path: Path) -> None:
    done = deepseek(tmp_path, "tune", "wach")
    assert done.returncode == 2
    assert "No such command 'wach'" in done.stderr


def test_yaml_toml_and_json_are_read_alike(tmp_path: Path) -> None:
    texts = {
        "a.yaml": "rate: 1e-4\nlayers: [1, 2]\nname: x1e-4\nplain: 3\n",
        "a.toml": 'rate = 1e-4\nlayers = [1, 2]\nname = "x1e-4"\nplain = 3\n',
        "a.json": '{"rate": 1e-4, "layers": [1, 2], "name": "x1e-4", "plain": 3}',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read_spec(tmp_path / name) == {"rate": 1e-4, "layers": [1, 2], "name": "x1e-4", "plain": 3}
    for name, text in {
        "b.yaml": "a: [1",
        "c.yaml": "- 1",
        "d.yml": "!!python/object/apply:os.getcwd []",
        "e.json": "[1]",
        "f.toml": "a =",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(InvalidArgument) as error:
            read_spec(tmp_path / name)
        assert error.value.reason == "BAD_SPEC_FILE"


def test_the_live_table_shows_the_best_trial_and_what_is_spent() -> None:
    objective = pb.Objective(metric="loss", goal=pb.GOAL_MINIMIZE)
    table = StudyTable(pb.Study(name="studies/s", spec=pb.StudySpec(objectives=[objective])))
    for number in range(1, 41):
        trial = pb.Trial(name=f"studies/s/trials/{number}", state=pb.TRIAL_STATE_SUCCEEDED, sequence=number)
        trial.metrics.add(name="loss", value=abs(number - 3))
        assert f"trial {number} is succeeded" in table.update(pb.WatchStudyResponse(trial=trial))
    run = pb.StudyRun(state=pb.STUDY_RUN_STATE_RUNNING, message="trials: 2 active, 7 ended", num_epochs=7, seconds=3.2)
    run.spec.budget.max_epochs = 20
    line = table.update(pb.WatchStudyResponse(run=run))
    assert line == "running: trials: 2 active, 7 ended; 0 trials, 7 of 20 epochs, 3 s; best so far: trial 3"
    run.num_epochs = 8
    assert not table.update(pb.WatchStudyResponse(run=run))  # not worth a line
    run.message = "waiting for the trainer: it is gone"
    assert "waiting for the trainer" in table.update(pb.WatchStudyResponse(run=run))
    shown, footer = table.render().renderables
    assert shown.row_count == 31  # the newest trials, and the best one
    assert "8 of 20 epochs" in str(footer)


def test_steps_of_population_based_training_have_numbers_in_json() -> None:
    trial = pb.Trial(name="studies/s/trials/2")
    trial.exploits.add(epoch=3, source="studies/s/trials/1", source_step=30).parameters.add(name="lr", old=0.1, new=0.2)
    (found,) = trial_document(trial)["exploits"]
    assert found == {
        "epoch": 3,
        "source": "studies/s/trials/1",
        "source_step": 30,
        "parameters": [{"name": "lr", "old": 0.1, "new": 0.2}],
        "applied_step": 0,
        "failure_reason": "",
        "failure_message": "",
    }
