"""The job that runs a study, with a trainer that the test advances."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from common.database import PageRequest
from common.errors import AlreadyExists, FailedPrecondition, Internal, InvalidArgument, ResourceExhausted, Unavailable
from common.jobs import JobState
from deepseek.search.trials import Outcome, TrialState
from services.tuner.ports import Finished
from services.tuner.study_job import MAX_STREAMS
from tests.harness.processes import wait_until
from tests.services.tuner.job_runner import STUDY, TENANT, Tuner


def test_every_trial_becomes_a_run(tuner: Tuner) -> None:
    tuner.create()
    assert tuner.start(max_trials=3, max_parallel=2).job.state in (JobState.PENDING, JobState.RUNNING)
    tuner.trainer.wait_for_runs(2)
    tuner.train("runs/r1", 0.9, 0.5, 0.6, 0.4)
    tuner.trainer.wait_for_runs(3)
    tuner.train("runs/r2", 0.9, 0.8, 0.7, 0.6)
    tuner.train("runs/r3", 0.9, 0.8, 0.7, 0.3)
    run = tuner.ended()
    assert (run.job.state, run.end_reason, run.num_trials, run.num_epochs) == (JobState.SUCCEEDED, "MAX_TRIALS", 3, 12)
    assert (run.job.progress, run.job.message) == (1, "trials: 3 ended; max_trials is reached")
    trials = tuner.trials()
    assert {trial.run: trial.state for trial in trials} == dict.fromkeys(tuner.trainer.runs, TrialState.SUCCEEDED)
    assert tuner.trainer.labels == {trial.run: f"s/{trial.number}" for trial in trials}
    for trial in trials:
        spec = tuner.trainer.runs[trial.run].spec
        assert spec.optimizer.params["lr"] == trial.parameters["optimizer.params.lr"]
        assert spec.batch_size == trial.parameters["batch"]
        assert spec.select_metric == "accuracy"
        measured = tuner.studies.trial(TENANT, f"{STUDY}/trials/{trial.number}")[0].measurements
        assert [one.step for one in measured] == [1, 2, 3, 4]
    (best,), _ = tuner.studies.optimal(TENANT, STUDY, PageRequest())
    assert best.trial.metrics == {"loss": 0.3, "accuracy": 0.7}


def test_a_study_with_many_runs_leaves_streams_of_the_trainer_to_others(tuner: Tuner) -> None:
    tuner.create()
    tuner.start(max_trials=12, max_parallel=12)
    runs = tuner.trainer.wait_for_runs(12)
    wait_until(lambda: tuner.trainer.num_streams == MAX_STREAMS, "streams")
    for run in runs:
        tuner.train(run, 0.9, 0.5)
    assert tuner.ended().num_epochs == 24
    assert tuner.trainer.most_streams == MAX_STREAMS
    assert {trial.state for trial in tuner.trials()} == {TrialState.SUCCEEDED}


def test_the_pruner_stops_a_run_that_trains(tuner: Tuner) -> None:
    tuner.create(pruner={"name": "median", "params": {"n_startup_trials": 1, "n_warmup_steps": 1}})
    tuner.start(max_trials=2)
    tuner.trainer.wait_for_runs(1)
    tuner.train("runs/r1", 0.9, 0.5, 0.4, 0.3)
    tuner.trainer.wait_for_runs(2)
    tuner.trainer.evaluate("runs/r2", 0.9, 0.8, 0.7)
    run = tuner.ended()
    assert tuner.trainer.runs["runs/r2"].end.state == "CANCELLED"
    second = tuner.trials()[1]
    assert second.state == TrialState.STOPPED
    assert run.num_epochs == 4 + (second.last_step or 0)


def test_a_failed_run_fails_its_trial_and_many_fail_the_job(tuner: Tuner) -> None:
    tuner.create()
    tuner.start(max_trials=50)
    for number in range(1, 6):
        run = tuner.trainer.wait_for_runs(number)[-1]
        tuner.trainer.finish(run, Finished("FAILED", reason="UNKNOWN_FIELD", message="there is no such parameter"))
    run = tuner.ended()
    assert run.job.state == JobState.FAILED
    assert run.end_reason == "TRIALS_FAIL"
    assert run.job.error is not None
    assert "the runs of 5 trials in a row failed; the last one: UNKNOWN_FIELD: there is no" in run.job.error.message
    trials = tuner.trials()
    assert [(trial.state, trial.failure_reason) for trial in trials] == [(TrialState.FAILED, "UNKNOWN_FIELD")] * 5
    tuner.start(max_trials=50)  # a job that failed starts again, and its earlier failures do not count
    tuner.trainer.wait_for_runs(6)
    tuner.studies.stop(TENANT, STUDY)
    assert tuner.ended().end_reason == "STUDY_STOPPED"


def test_a_study_whose_runs_all_fail_has_failed_however_few_they_are(tuner: Tuner) -> None:
    tuner.create()
    tuner.start(max_trials=2)
    for number in (1, 2):
        run = tuner.trainer.wait_for_runs(number)[-1]
        tuner.trainer.finish(run, Finished("FAILED", reason="UNKNOWN_FIELD", message="there is no such parameter"))
    found = tuner.ended()
    assert (found.job.state, found.end_reason) == (JobState.FAILED, "TRIALS_FAIL")
    assert found.job.error is not None
    assert "the last one: UNKNOWN_FIELD: there is no such parameter" in found.job.error.message


@pytest.mark.parametrize("method", ["find_end", "label", "stop"])
def test_an_internal_error_of_the_trainer_leaves_no_run_behind(
    tuner: Tuner, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    call, errors = getattr(tuner.trainer, method), [Internal("INTERNAL", "a defect")]

    def fail_once(*arguments: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return call(*arguments, **options)

    monkeypatch.setattr(tuner.trainer, method, fail_once)
    tuner.create()
    tuner.start(max_epochs=2, run={"epochs": 3})
    tuner.trainer.evaluate(*tuner.trainer.wait_for_runs(1), 0.5, 0.4)
    run = tuner.ended()
    assert (run.job.state, run.end_reason, errors) == (JobState.SUCCEEDED, "MAX_EPOCHS", [])
    assert tuner.trainer.runs["runs/r1"].end.state == "CANCELLED"
    assert tuner.trials()[0].run == "runs/r1"


def test_a_run_without_evaluations_fails_its_trial(tuner: Tuner) -> None:
    tuner.create()
    tuner.start(max_trials=1)
    (run,) = tuner.trainer.wait_for_runs(1)
    tuner.trainer.finish(run, Finished("SUCCEEDED", {"loss": 0.1, "accuracy": 0.9}))
    assert tuner.ended().end_reason == "TRIALS_FAIL"
    assert tuner.trials()[0].failure_reason == "NO_EVALUATION"


def test_a_result_that_is_not_finite_fails_the_trial_only(tuner: Tuner) -> None:
    tuner.create()
    tuner.start(max_trials=6)
    for number in range(1, 7):
        tuner.train(tuner.trainer.wait_for_runs(number)[-1], float("nan"))
    assert tuner.ended().job.state == JobState.SUCCEEDED
    assert {trial.failure_reason for trial in tuner.trials()} == {"NOT_FINITE"}


def test_a_stopped_study_stops_its_runs(tuner: Tuner) -> None:
    tuner.create()
    tuner.start(max_epochs=100, max_parallel=3)
    tuner.trainer.wait_for_runs(3)
    tuner.trainer.evaluate("runs/r1", 0.5)
    tuner.studies.stop(TENANT, STUDY)
    run = tuner.ended()
    assert (run.job.state, run.end_reason) == (JobState.CANCELLED, "STUDY_STOPPED")
    assert {one.end.state for one in tuner.trainer.runs.values()} == {"CANCELLED"}
    assert {trial.state for trial in tuner.trials()} == {TrialState.STOPPED}
    assert tuner.start(max_epochs=100, max_parallel=3).job == run.job  # the same content again
    with pytest.raises(FailedPrecondition) as error:
        tuner.start(max_epochs=200)
    assert error.value.reason == "STUDY_STOPPED"


def test_a_cancelled_job_stops_the_study(tuner: Tuner) -> None:
    tuner.create()
    job = tuner.start(max_epochs=100).job
    tuner.trainer.wait_for_runs(1)
    tuner.jobs.cancel(TENANT, job.name)
    assert tuner.ended().job.state == JobState.CANCELLED
    assert tuner.studies.get(TENANT, STUDY).stopped
    assert tuner.trainer.runs["runs/r1"].end.state == "CANCELLED"


def test_a_trial_that_is_stopped_or_ended_by_others_frees_its_slot(tuner: Tuner) -> None:
    tuner.create()
    tuner.start(max_trials=3)
    tuner.trainer.wait_for_runs(1)
    tuner.studies.stop_trial(TENANT, f"{STUDY}/trials/1")
    tuner.trainer.wait_for_runs(2)
    tuner.studies.complete(TENANT, f"{STUDY}/trials/2", Outcome(TrialState.SUCCEEDED, {"accuracy": 0.5}))
    tuner.trainer.wait_for_runs(3)
    assert [tuner.trainer.runs[f"runs/r{number}"].end.state for number in (1, 2)] == ["CANCELLED"] * 2
    tuner.trainer.finish("runs/r3", Finished("CANCELLED"))  # as `deepseek run stop` does
    assert tuner.ended().job.state == JobState.SUCCEEDED
    states = [trial.state for trial in tuner.trials()]
    assert states == [TrialState.STOPPED, TrialState.SUCCEEDED, TrialState.STOPPED]


def test_at_the_limit_on_epochs_runs_are_stopped_and_a_greater_one_continues(tuner: Tuner) -> None:
    tuner.create()
    tuner.start(max_epochs=6, max_parallel=2)
    tuner.trainer.wait_for_runs(2)
    tuner.train("runs/r1", 0.9, 0.8, 0.7, 0.6)
    wait_until(lambda: tuner.trials()[0].state.ended, "the first trial")
    tuner.trainer.evaluate("runs/r2", 0.9, 0.8)
    run = tuner.ended()
    assert (run.end_reason, run.num_epochs) == ("MAX_EPOCHS", 6)
    assert tuner.trainer.runs["runs/r2"].end.state == "CANCELLED"
    assert all(trial.state.ended for trial in tuner.trials())
    num_runs = len(tuner.trainer.runs)
    with pytest.raises(AlreadyExists) as error:
        tuner.start(max_epochs=20, run={"seed": 8})
    assert error.value.reason == "RUN_SPEC_DIFFERS"
    job = tuner.start(max_epochs=7).job
    assert job.name != run.job.name
    last = tuner.trainer.wait_for_runs(num_runs + 1)[-1]
    with pytest.raises(FailedPrecondition) as raised:
        tuner.start(max_epochs=8)
    assert raised.value.reason == "STUDY_RUNNING"
    with pytest.raises(FailedPrecondition) as raised:
        tuner.studies.delete(TENANT, STUDY)
    assert raised.value.reason == "STUDY_RUNNING"
    tuner.trainer.evaluate(last, 0.9)
    run = tuner.ended()
    assert (run.end_reason, run.num_epochs) == ("MAX_EPOCHS", 7)
    tuner.studies.delete(TENANT, STUDY)


def test_seconds_are_counted_across_jobs_and_a_clock_that_jumps_changes_nothing(
    tuner: Tuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuner.create()
    tuner.start(max_seconds=8)
    real = time.time_ns
    monkeypatch.setattr("time.time_ns", lambda: real() + 10**15)  # eleven days later
    tuner.trainer.wait_for_runs(1)
    wait_until(lambda: tuner.run().seconds > 0.3, "stored seconds")
    assert not tuner.run().job.state.final
    monkeypatch.setattr("time.time_ns", lambda: real() - 10**15)
    run = tuner.ended()
    assert run.end_reason == "MAX_SECONDS"
    assert 8 <= run.seconds < 60
    assert tuner.trainer.runs["runs/r1"].end.state == "CANCELLED"
    monkeypatch.undo()
    again = tuner.start(max_seconds=1.0)  # less than what is spent
    assert again.job.name != run.job.name
    assert tuner.ended().end_reason == "MAX_SECONDS"
    assert len(tuner.trainer.runs) == 1


def test_a_trainer_that_is_gone_is_waited_for(tuner: Tuner) -> None:
    tuner.create()
    tuner.trainer.refusal = Unavailable("UNREACHABLE", "nobody listens on port 7003")
    with pytest.raises(Unavailable):
        tuner.start(max_trials=1)
    tuner.trainer.refusal = None
    tuner.start(max_trials=2)
    tuner.trainer.wait_for_runs(1)
    tuner.trainer.refusal = Unavailable("UNREACHABLE", "nobody listens on port 7003")
    tuner.trainer.evaluate("runs/r1", 0.9, 0.8, 0.7, 0.6)
    tuner.trainer.finish("runs/r1")
    waits = "waiting for the trainer: nobody listens on port 7003"
    wait_until(lambda: tuner.run().job.message.startswith(waits), "a message")
    tuner.trainer.refusal = ResourceExhausted("QUOTA_EXCEEDED", "too many jobs", retry_delay_s=30)
    wait_until(lambda: "too many jobs" in tuner.run().job.message, "another message", timeout_s=30)
    assert tuner.run().job.state == JobState.RUNNING
    tuner.trainer.refusal = None
    tuner.train(tuner.trainer.wait_for_runs(2)[-1], 0.5)
    assert tuner.ended().job.state == JobState.SUCCEEDED
    assert [trial.last_step for trial in tuner.trials()] == [4, 1]


def test_another_tuner_continues_without_a_second_run(make: Callable[[], Tuner]) -> None:
    first = make()
    first.create()
    first.start(max_trials=3, max_parallel=2)
    first.trainer.wait_for_runs(2)
    first.trainer.evaluate("runs/r1", 0.9, 0.8)
    wait_until(lambda: first.run().num_epochs == 2, "a measurement")
    first.runner.stop(10)
    before = first.run()
    assert before.job.state == JobState.RUNNING
    assert before.seconds > 0
    first.trainer.evaluate("runs/r1", 0.7, 0.6)
    first.trainer.finish("runs/r1")
    second = make()
    second.trainer.wait_for_runs(3)
    second.train("runs/r2", 0.9, 0.8)
    second.train("runs/r3", 0.9)
    run = second.ended()
    assert (run.num_trials, run.num_epochs, len(second.trainer.runs)) == (3, 7, 3)
    assert run.seconds > before.seconds
    steps = [one.step for one in second.studies.trial(TENANT, f"{STUDY}/trials/1")[0].measurements]
    assert steps == [1, 2, 3, 4]


def test_a_space_that_is_exhausted_ends_the_job(tuner: Tuner) -> None:
    tuner.create(parameters=[{"name": "batch", "choices": {"values": [8, 16]}}], algorithm={"name": "brute_force"})
    tuner.start(max_seconds=1000)
    for number in (1, 2):
        tuner.train(tuner.trainer.wait_for_runs(number)[-1], 0.5)
    run = tuner.ended()
    assert (run.job.state, run.end_reason) == (JobState.SUCCEEDED, "SPACE_EXHAUSTED")
    assert sorted(one.spec.batch_size for one in tuner.trainer.runs.values()) == [8, 16]


def test_mistakes_start_nothing(tuner: Tuner) -> None:
    tuner.create()
    with pytest.raises(InvalidArgument) as error:
        tuner.start(max_trials=1, run={"epochs": 0})
    assert error.value.field == "spec.run.epochs"
    assert tuner.studies.get(TENANT, STUDY).run is None
    assert not tuner.jobs.list(TENANT, PageRequest())[0]
