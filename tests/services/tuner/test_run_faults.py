"""The job that runs a study, when the trainer refuses calls, and with what others do to its study."""

from typing import Any

import pytest

from common.errors import Internal, PermissionDenied, ResourceExhausted
from common.jobs import JobState
from deepseek.search.trials import TrialState
from services.tuner.ports import Evaluations
from tests.harness.processes import wait_until
from tests.services.tuner.job_runner import STUDY, TENANT, Tuner


def refuse_runs(tuner: Tuner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the trainer no room for another run."""

    def refuse(*arguments: Any, **options: Any) -> str:
        raise ResourceExhausted("QUOTA_EXCEEDED", "too many jobs", retry_delay_s=30)

    monkeypatch.setattr(tuner.trainer, "submit", refuse)


def test_a_trainer_without_room_for_another_run_still_stops_those_that_it_has(
    tuner: Tuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_FIRST_DELAY_S", "_LONGEST_DELAY_S"):
        monkeypatch.setattr(f"services.tuner.run_slots.{name}", 1e6)
    tuner.create()
    tuner.start(max_trials=3, max_parallel=2)
    tuner.trainer.wait_for_runs(2)
    refuse_runs(tuner, monkeypatch)
    tuner.train("runs/r1", 0.5)
    wait_until(lambda: "too many jobs" in tuner.run().job.message, "a message")
    tuner.studies.stop_trial(TENANT, f"{STUDY}/trials/2")
    wait_until(lambda: tuner.trials()[1].state == TrialState.STOPPED, "the end of a trial")
    assert tuner.trainer.runs["runs/r2"].end.state == "CANCELLED"
    assert "too many jobs" in tuner.run().job.message


def test_a_study_that_waits_for_room_can_be_stopped(tuner: Tuner, monkeypatch: pytest.MonkeyPatch) -> None:
    tuner.create()
    refuse_runs(tuner, monkeypatch)
    tuner.start(max_trials=2)
    wait_until(lambda: "too many jobs" in tuner.run().job.message, "a message")
    tuner.studies.stop(TENANT, STUDY)
    assert tuner.ended().end_reason == "STUDY_STOPPED"
    assert [trial.state for trial in tuner.trials()] == [TrialState.STOPPED]
    assert not tuner.trainer.runs


def test_a_stream_that_fails_is_opened_again_after_a_pause(tuner: Tuner, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations, broken = tuner.trainer.evaluations, Internal("INTERNAL", "the service failed; see its log")
    is_broken = True

    def sometimes(*arguments: Any, **options: Any) -> Evaluations:
        if is_broken:
            raise broken
        return evaluations(*arguments, **options)

    monkeypatch.setattr(tuner.trainer, "evaluations", sometimes)
    tuner.create()
    tuner.start(max_trials=1)
    tuner.trainer.wait_for_runs(1)
    wait_until(lambda: tuner.run().job.message == "waiting for the trainer: the service failed; see its log", "it")
    is_broken = False
    tuner.train("runs/r1", 0.5)
    assert (tuner.ended().job.state, tuner.run().num_epochs) == (JobState.SUCCEEDED, 1)


def test_a_run_that_cannot_be_stopped_fails_the_job_with_a_reason(
    tuner: Tuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(tenant: str, run: str) -> None:
        raise PermissionDenied("ROLE_REQUIRED", "the tuner has the role reader; StopRun requires writer")

    monkeypatch.setattr(tuner.trainer, "stop", refuse)
    tuner.create()
    tuner.start(max_trials=1)
    tuner.trainer.wait_for_runs(1)
    tuner.studies.stop_trial(TENANT, f"{STUDY}/trials/1")
    run = tuner.ended()
    assert (run.job.state, run.end_reason) == (JobState.FAILED, "ROLE_REQUIRED")


def test_a_worker_whose_name_looks_like_a_slot_is_left_alone(tuner: Tuner) -> None:
    tuner.create()
    for name in ("trainer/", "trainer/x", "trainer/-1", "trainer/1000"):
        tuner.studies.suggest(TENANT, STUDY, name, 1)
    tuner.start(max_trials=1)
    tuner.train(tuner.trainer.wait_for_runs(1)[0], 0.5)
    assert (tuner.ended().job.state, tuner.run().num_trials) == (JobState.SUCCEEDED, 1)
