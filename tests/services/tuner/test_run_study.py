"""Studies that are run on a real trainer, by a tuner that is a process."""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from common.errors import InvalidArgument, MeshError, NotFound
from protos.job.v1 import job_pb2
from protos.tuner.v1 import tuner_pb2 as pb
from tests.harness.processes import wait_until
from tests.services.tuner.mesh import TunerMesh
from tests.services.tuner.specs import BATCH, RUN_STUDY_SPEC

pytestmark = pytest.mark.slow

NUM_KILLS = 4


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TunerMesh]:
    with ExitStack() as owned:
        yield TunerMesh(tmp_path_factory.mktemp("tuner") / "home", owned)


def evaluations(mesh: TunerMesh, run: str) -> dict[int, dict[str, float]]:
    """The metrics of a run by epoch."""
    return {
        event.evaluation.epoch: {one.name: one.value for one in event.evaluation.metrics}
        for event in mesh.client.runs.history(run)
        if event.HasField("evaluation")
    }


def test_trials_are_runs_whose_evaluations_are_measured_until_the_pruner_stops_them(mesh: TunerMesh) -> None:
    studies = mesh.client.studies
    spec = {**RUN_STUDY_SPEC, "pruner": {"name": "median", "params": {"n_startup_trials": 1}}, "seed": 11}
    studies.create("pictures", spec)
    started = studies.run("pictures", mesh.spec(), fields=BATCH, max_trials=3, max_parallel=2)
    assert started.run.state == pb.STUDY_RUN_STATE_RUNNING
    again = studies.run("pictures", mesh.spec(), fields=BATCH, max_trials=3, max_parallel=2)
    assert again.run.job.name == started.run.job.name
    changes = list(studies.follow("pictures"))
    study = studies.get("pictures")
    assert (study.run.state, study.run.end_reason) == (pb.STUDY_RUN_STATE_SUCCEEDED, "MAX_TRIALS")
    assert study.run.spec.run.select_metric == "accuracy"
    last = [change.run for change in changes if change.HasField("run")][-1]
    assert last == study.run
    trials = mesh.trials("pictures")
    assert len({trial.run for trial in trials}) == 3
    num_epochs = 0
    for trial in map(studies.trial, [one.name for one in trials]):
        run = mesh.client.runs.get(trial.run)
        assert run.display_name == f"pictures/{trial.name.rpartition('/')[2]}"
        assert run.spec.optimizer.params["lr"] == pytest.approx(trial.parameters["optimizer.params.lr"])
        assert run.spec.batch_size == trial.parameters["batch"]
        measured = {one.step: {m.name: m.value for m in one.metrics} for one in trial.measurements}
        assert measured == evaluations(mesh, trial.run)
        num_epochs += len(measured)
        if trial.state == pb.TRIAL_STATE_SUCCEEDED:
            assert run.job.state == job_pb2.JOB_STATE_SUCCEEDED
            assert {one.name: one.value for one in trial.metrics} == {one.name: one.value for one in run.metrics}
        else:
            assert trial.state == pb.TRIAL_STATE_STOPPED
            assert run.job.state == job_pb2.JOB_STATE_CANCELLED
    assert study.run.num_epochs == num_epochs
    assert study.run.seconds > 0


def test_a_spec_that_the_trainer_refuses_starts_nothing(mesh: TunerMesh) -> None:
    mesh.client.studies.create("wrong", RUN_STUDY_SPEC)
    for change, error, field in (
        ({"target": {"field": "answer"}}, InvalidArgument, "spec.run.target.field"),
        ({"dataset_version": "datasets/nowhere/versions/1"}, NotFound, "spec.run.dataset_version"),
        ({"eval_split": "nowhere", "early_stopping": {"patience": 1}}, InvalidArgument, "spec.run.eval_split"),
    ):
        with pytest.raises(error) as raised:
            mesh.client.studies.run("wrong", mesh.spec(**change), fields=BATCH, max_trials=1)
        assert isinstance(raised.value, MeshError)
        assert raised.value.field == field
    assert not mesh.client.studies.get("wrong").HasField("run")


def test_a_parameter_that_only_a_worker_can_refuse_fails_the_trial(mesh: TunerMesh) -> None:
    mesh.client.studies.create("unknown", RUN_STUDY_SPEC)
    optimizer = {"name": "adamw", "params": {"speed": 1}}
    mesh.client.studies.run("unknown", mesh.spec(optimizer=optimizer), fields=BATCH, max_trials=1)
    mesh.ended("unknown")
    (trial,) = mesh.trials("unknown")
    assert (trial.state, trial.failure_reason) == (pb.TRIAL_STATE_FAILED, "UNKNOWN_FIELD")
    assert "has no parameter 'speed'" in trial.failure_message


def test_stopping_a_study_stops_its_runs(mesh: TunerMesh) -> None:
    studies = mesh.client.studies
    studies.create("endless", RUN_STUDY_SPEC)
    studies.run("endless", mesh.spec(epochs=100_000), fields=BATCH, max_seconds=1000, max_parallel=2)
    wait_until(lambda: any(one.HasField("last_measurement") for one in mesh.trials("endless")), "an epoch")
    studies.stop("endless")
    study = mesh.ended("endless")
    assert (study.run.state, study.run.end_reason) == (pb.STUDY_RUN_STATE_STOPPED, "STUDY_STOPPED")
    for trial in mesh.trials("endless"):
        assert trial.state == pb.TRIAL_STATE_STOPPED
        assert mesh.client.runs.get(trial.run).job.state == job_pb2.JOB_STATE_CANCELLED


def test_a_bad_run_continues_with_the_weights_of_a_good_one(mesh: TunerMesh) -> None:
    studies = mesh.client.studies
    algorithm = {"name": "pbt", "params": {"population": 2, "interval": 5, "quantile": 0.5}}
    spec = {**RUN_STUDY_SPEC, "parameters": RUN_STUDY_SPEC["parameters"][:1], "algorithm": algorithm}
    studies.create("population", spec)
    studies.run("population", mesh.spec(epochs=100_000))

    def applied() -> list[tuple[pb.Trial, pb.Exploit]]:
        return [
            (trial, exploit)
            for trial in mesh.trials("population")
            for exploit in trial.exploits
            if exploit.applied_step
        ]

    wait_until(lambda: bool(applied()), "a step of population-based training", timeout_s=240)
    studies.stop("population")
    mesh.ended("population")
    trial, exploit = applied()[0]
    source = studies.trial(exploit.source)
    answers = {
        event.directive.directive_id: event.directive
        for event in mesh.client.runs.history(trial.run)
        if event.HasField("directive")
    }
    restored = answers[f"pbt-{exploit.epoch}-restore"]
    changed = answers[f"pbt-{exploit.epoch}-learning_rate"]
    assert not restored.HasField("error")
    assert exploit.applied_step == max(restored.applied_step, changed.applied_step)
    assert changed.new.learning_rate == pytest.approx(exploit.parameters[0].new)
    saved = [event.checkpoint.step for event in mesh.client.runs.history(source.run) if event.HasField("checkpoint")]
    assert exploit.source_step in saved
    assert exploit.epoch % 5 == 0


def test_a_killed_tuner_and_a_trainer_that_is_gone_lose_nothing(mesh: TunerMesh) -> None:
    source, studies = random.Random(16), mesh.client.studies
    before = {run.name for run in mesh.client.runs.list()}
    studies.create("killed", {**RUN_STUDY_SPEC, "seed": 3})
    studies.run("killed", mesh.spec(), fields=BATCH, max_trials=4, max_parallel=2)
    for number in range(NUM_KILLS):
        time.sleep(source.uniform(0.1, 2.5))
        mesh.tuner.kill()
        if number == 1:
            mesh.processes.trainer.kill()
        mesh.tuner.start()
        if number == 1:
            wait_until(lambda: "waiting for the trainer" in studies.get("killed").run.message, "a message")
            mesh.processes.trainer.start()
    study = mesh.ended("killed")
    assert (study.run.state, study.run.num_trials) == (pb.STUDY_RUN_STATE_SUCCEEDED, 4)
    runs = {run.name for run in mesh.client.runs.list()} - before
    trials = mesh.trials("killed")
    assert {trial.run for trial in trials} == runs  # no run without a trial, and none twice
    assert len(runs) == 4
    for trial in map(studies.trial, [one.name for one in trials]):
        assert trial.state == pb.TRIAL_STATE_SUCCEEDED
        measured = {one.step: {m.name: m.value for m in one.metrics} for one in trial.measurements}
        assert measured == evaluations(mesh, trial.run)
        assert list(measured) == [1, 2, 3]
