"""The rules of a study: who gets which trial, what may be reported when, and how trials end."""

import math
import random
import resource
import time
from pathlib import Path

import pytest

from common.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from deepseek.search import study as study_module
from deepseek.search.study_spec import OutcomeConstraint
from deepseek.search.trials import Outcome, TrialState
from tests.deepseek.search.specs import NUMBERS, STEPPED, spec
from tests.deepseek.search.studies import RecordedStudy, evaluate, loss_of


def test_a_worker_gets_its_active_trials_back() -> None:
    study = RecordedStudy(spec())
    first = study.suggest("a", 2)
    assert study.suggest("a", 2) == first
    assert study.suggest("a") == first[:1]
    assert [trial.number for trial in study.suggest("a", 3)] == [1, 2, 3]
    assert [trial.number for trial in study.suggest("b", 2)] == [4, 5]
    study.succeed(1, loss=1.0)
    assert [trial.number for trial in study.suggest("a", 2)] == [2, 3]
    assert [trial.number for trial in study.recovered().suggest("a", 2)] == [2, 3]


def test_workers_never_get_the_same_trial() -> None:
    study = RecordedStudy(spec(algorithm="tpe"))
    numbers = [trial.number for worker in range(20) for trial in study.suggest(f"w{worker}", 3)]
    assert numbers == list(range(1, 61))


@pytest.mark.parametrize(
    ("client_id", "num_trials", "field"),
    [
        ("", 1, "client_id"),
        ("a" * 201, 1, "client_id"),
        ("é", 1, "client_id"),
        ("a\n", 1, "client_id"),
        ("a", -1, "num_trials"),
        ("a", 101, "num_trials"),
    ],
)
def test_a_wrong_request_for_suggestions_is_refused(client_id: str, num_trials: int, field: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        RecordedStudy(spec()).suggest(client_id, num_trials)
    assert error.value.field == field


def test_a_study_suggests_no_more_than_its_maximum() -> None:
    study = RecordedStudy(spec(max_trials=3))
    assert len(study.suggest("a", 5)) == 3
    assert len(study.suggest("a", 5)) == 3
    with pytest.raises(FailedPrecondition) as error:
        study.suggest("b")
    assert error.value.reason == "STUDY_COMPLETE"


def test_a_stopped_study_asks_all_workers_to_stop_and_lets_them_end() -> None:
    study = RecordedStudy(spec())
    study.suggest("a", 2)
    study.succeed(1, loss=0.5)
    assert [trial.number for trial in study.study.stop()] == [2]
    assert study.study.check_early_stopping(2) == (True, None)
    study = study.recovered()
    assert [trial.number for trial in study.suggest("a")] == [2]
    with pytest.raises(FailedPrecondition) as error:
        study.suggest("b")
    assert error.value.reason == "STUDY_STOPPED"
    study.measure(2, 1, loss=0.25)
    assert study.succeed(2) is not None
    assert [trial.number for trial in study.study.optimal()] == [2]


def test_a_stopped_trial_keeps_its_measurements() -> None:
    study = RecordedStudy(spec())
    study.suggest()
    study.measure(1, 4, loss=0.25)
    study.measure(1, 2, loss=0.5)
    ended = study.study.complete(1, Outcome(TrialState.STOPPED))
    assert ended is not None
    assert (ended.state, ended.last_step, ended.last_metrics) == (TrialState.STOPPED, 4, {"loss": 0.25})
    assert ended.feasible is None
    assert study.study.check_early_stopping(1) == (True, None)


def test_a_measurement_of_a_finished_trial_is_refused() -> None:
    study = RecordedStudy(spec())
    study.suggest()
    study.succeed(1, loss=1.0)
    with pytest.raises(FailedPrecondition) as error:
        study.measure(1, 3, loss=1.0)
    assert error.value.reason == "TRIAL_ENDED"
    assert study.study.check_early_stopping(1) == (False, None)
    assert study.study.stop_trial(1) is None


def test_the_first_measurement_of_a_step_is_kept() -> None:
    study = RecordedStudy(spec())
    study.suggest()
    study.measure(1, 1, loss=1.0)
    for other in (study, study.recovered()):
        before = other.study.sequence
        assert other.study.measure(1, 1, {"loss": 2.0}) is None
        assert other.study.sequence == before
        assert other.study.trials[1].last_metrics == {"loss": 1.0}


@pytest.mark.parametrize(("algorithm", "pruner"), [("tpe", "asha"), ("cmaes", "median"), ("grid", "none")])
def test_an_object_that_catches_up_continues_as_the_one_that_led(algorithm: str, pruner: str) -> None:
    space = STEPPED if algorithm == "grid" else NUMBERS
    params = {"tpe": {"n_startup_trials": 3}, "cmaes": {"popsize": 4}}.get(algorithm)
    leader = RecordedStudy(spec(space, algorithm, params=params, pruner=pruner, max_trials=60))
    follower = leader.recovered()
    source = random.Random(4)
    for _ in range(80):
        # Any of the changes that a worker can make, and then the roles are swapped.
        active = [trial for trial in leader.study.trials.values() if not trial.state.ended]
        if len(active) < 2:
            leader.suggest(f"worker-{source.randrange(3)}", 2)
        else:
            trial = source.choice(active)
            step = (trial.last_step or 0) + 1
            if step > 3:
                leader.succeed(trial.number)
            elif leader.measure(trial.number, step, loss=loss_of(trial.parameters)[0] / step):
                leader.study.complete(trial.number, Outcome(TrialState.STOPPED))
        follower.catch_up(leader)
        assert follower.study.trials == leader.study.trials
        assert follower.study.attributes == leader.study.attributes
        if source.random() < 0.3:
            leader, follower = follower, leader
    assert len(leader.study.trials) > 10
    expected = leader.recovered().suggest("new")
    assert [one.parameters for one in follower.suggest("new")] == [one.parameters for one in expected]


def test_wrong_measurements_are_refused() -> None:
    study = RecordedStudy(spec())
    study.suggest()
    for step, metrics, reason in (
        (-1, {"loss": 1.0}, "BAD_VALUE"),
        (1, {}, "MISSING_FIELD"),
        (1, {"": 1.0}, "MISSING_FIELD"),
        (1, {"a\0": 1.0}, "BAD_VALUE"),
        (1, {f"m{number}": 1.0 for number in range(101)}, "BAD_VALUE"),
    ):
        with pytest.raises(InvalidArgument) as error:
            study.study.measure(1, step, metrics)
        assert error.value.reason == reason
    with pytest.raises(NotFound):
        study.measure(2, 1, loss=1.0)
    assert study.study.trials[1].last_step is None


def test_measurements_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "MAX_MEASUREMENTS", 3)
    study = RecordedStudy(spec())
    study.suggest()
    for step in range(3):
        study.measure(1, step, loss=1.0)
    with pytest.raises(ResourceExhausted) as error:
        study.measure(1, 3, loss=1.0)
    assert error.value.reason == "TOO_MANY_MEASUREMENTS"


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_an_objective_that_cannot_be_compared_fails_the_trial(value: float) -> None:
    study = RecordedStudy(spec(algorithm="tpe"))
    study.suggest()
    for _ in range(2):  # a repetition has no effect
        study.succeed(1, loss=value)
    trial = study.study.trials[1]
    assert (trial.state, trial.failure_reason) == (TrialState.FAILED, "NOT_FINITE")
    assert "loss" in trial.failure_message
    assert study.study.optimal() == []
    assert study.suggest()[0].number == 2
    assert study.recovered().suggest()[0].number == 2


@pytest.mark.parametrize("algorithm", ["tpe", "cmaes", "nsga2", "gp"])
def test_an_infinitely_bad_objective_is_a_result(algorithm: str) -> None:
    params = {"cmaes": {"popsize": 4}, "nsga2": {"population_size": 4}}.get(algorithm, {"n_startup_trials": 3})
    study = RecordedStudy(spec(NUMBERS, algorithm, params=params))
    for number in range(9):
        (trial,) = study.suggest()
        study.succeed(trial.number, loss=math.inf if number % 2 else float(number + 1))
    assert [trial.number for trial in study.study.optimal()] == [1]
    assert study.study.trials[2].state == TrialState.SUCCEEDED
    assert study.recovered().suggest()[0].parameters == study.suggest()[0].parameters


def test_missing_final_metrics_come_from_the_last_measurement() -> None:
    study = RecordedStudy(spec(constraints=(OutcomeConstraint("bytes", at_most=8),)))
    study.suggest("a", 2)
    study.measure(1, 1, loss=3.0, bytes=9.0)
    study.measure(1, 2, loss=2.0, bytes=7.0)
    ended = study.succeed(1, loss=1.5, note=4.0)
    assert ended is not None
    assert ended.metrics == {"loss": 1.5, "bytes": 7.0, "note": 4.0}
    assert ended.feasible
    with pytest.raises(InvalidArgument, match="'bytes'") as error:
        study.succeed(2, loss=1.0)
    assert error.value.reason == "MISSING_METRIC"


@pytest.mark.parametrize(
    ("bytes_", "feasible"), [(8.0, True), (8.1, False), (math.nan, False), (math.inf, False), (-math.inf, True)]
)
def test_an_outcome_constraint_decides_what_is_feasible(bytes_: float, feasible: bool) -> None:
    study = RecordedStudy(spec(constraints=(OutcomeConstraint("bytes", at_most=8),)))
    study.suggest()
    ended = study.succeed(1, loss=1.0, bytes=bytes_)
    assert ended is not None
    assert ended.feasible is feasible
    assert len(study.study.optimal()) == len(study.recovered().study.optimal()) == feasible


def test_a_trial_ends_once() -> None:
    study = RecordedStudy(spec())
    study.suggest("a", 2)
    assert study.succeed(1, loss=1.0) is not None
    assert study.succeed(1, loss=1.0) is None
    for outcome in (Outcome(TrialState.SUCCEEDED, {"loss": 2.0}), Outcome(TrialState.STOPPED)):
        with pytest.raises(FailedPrecondition) as error:
            study.study.complete(1, outcome)
        assert error.value.reason == "TRIAL_ENDED"
    failure = Outcome(TrialState.FAILED, reason="OUT_OF_MEMORY", message="8 GiB were not enough")
    assert study.study.complete(2, failure) is not None
    assert study.study.complete(2, failure) is None
    assert study.study.trials[2].failure_reason == "OUT_OF_MEMORY"


def test_the_order_of_changes_does_not_depend_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([5_000_000, 3_000_000, 9_000_000, 1_000_000, 4_000_000, 2_000_000, 8_000_000] * 20)
    monkeypatch.setattr(time, "time_ns", lambda: next(times))
    study = RecordedStudy(spec(algorithm="cmaes", params={"popsize": 4}))
    for _ in range(12):
        (trial,) = study.suggest()
        evaluate(study, trial, loss_of)
    sequences = [trial.sequence for trial in study.study.trials.values()]
    assert sequences == sorted(sequences)
    assert study.recovered().suggest()[0].parameters == study.suggest()[0].parameters


def test_ten_thousand_trials_take_bounded_memory_and_are_counted() -> None:
    before = resident_bytes()
    long = RecordedStudy(spec())
    for number in range(1, 9_999):
        (trial,) = long.suggest()
        assert trial.number == number
        long.succeed(number, loss=loss_of(trial.parameters)[0])
    assert resident_bytes() - before < 200e6
    long.spec = spec(algorithm="tpe")
    study = long.recovered()
    for number in (9_999, 10_000):
        (trial,) = study.suggest()
        assert trial.number == number
        study.succeed(number, loss=loss_of(trial.parameters)[0])
    with pytest.raises(FailedPrecondition) as error:
        study.suggest()
    assert error.value.reason == "STUDY_COMPLETE"
    assert len({tuple(trial.parameters.items()) for trial in study.study.trials.values()}) == 10_000
    best = min(study.study.trials.values(), key=lambda trial: trial.metrics["loss"])
    assert study.study.optimal() == [best]


def resident_bytes() -> int:
    """The memory of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize()
