"""Every pruner: which of some learning curves it stops, and that it decides the same after a recovery."""

from typing import Any

import optuna
import pytest

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.components import PRUNERS
from deepseek.search.context import Context
from deepseek.search.study import Study
from deepseek.search.trials import Outcome, TrialState
from tests.deepseek.search.specs import NUMBERS, spec
from tests.deepseek.search.studies import RecordedStudy

NUM_STEPS = 9
PARAMS: dict[str, dict[str, Any]] = {
    "hyperband": {"max_resource": NUM_STEPS},
    "median": {"n_startup_trials": 2},
    "patient": {"patience": 2, "wrapped": {"name": "median", "params": {"n_startup_trials": 2}}},
    "percentile": {"percentile": 30.0, "n_startup_trials": 2},
    "threshold": {"upper": 0.75},
    "wilcoxon": {"p_threshold": 0.4},
}
EVERY = [
    "asha",
    "hyperband",
    "median",
    "none",
    "patient",
    "percentile",
    "successive_halving",
    "threshold",
    "wilcoxon",
]
LEVELS = [0.5, 0.1, 0.9, 0.3, 0.8, 0.2, 0.95, 0.4, 0.85, 0.15, 0.7, 0.05]
"""Loss of each trial, which rises a little from step to step."""


def run_trial(study: RecordedStudy, level: float, *, num_steps: int = NUM_STEPS) -> int:
    """Runs a trial; returns the step after which it was stopped, or 0."""
    (trial,) = study.suggest()
    for step in range(1, num_steps + 1):
        if study.measure(trial.number, step, loss=level + 0.001 * step):
            study.study.complete(trial.number, Outcome(TrialState.STOPPED))
            return step
    study.succeed(trial.number, loss=level)
    return 0


def test_these_are_all_pruners_and_all_pruners_of_optuna() -> None:
    assert set(EVERY) <= set(PRUNERS.names())
    pruners = {name for name in optuna.pruners.__all__ if not name.startswith("Base")}
    known = {"asha": "SuccessiveHalving", "none": "Nop"}
    assert pruners == {f"{known.get(name, name.title().replace('_', ''))}Pruner" for name in EVERY}


@pytest.mark.parametrize("name", EVERY)
def test_bad_trials_are_stopped_and_good_ones_are_not(name: str) -> None:
    study = RecordedStudy(spec(NUMBERS, pruner=name, pruner_params=PARAMS.get(name)))
    stopped = {level: run_trial(study, level) for level in LEVELS}
    assert stopped[0.05] == stopped[0.1] == 0
    assert all(step == 0 for step in stopped.values()) == (name == "none")
    if name != "none":
        num_bad, num_good = (
            sum(stopped[level] > 0 for level in LEVELS if (level >= 0.7) == is_bad) for is_bad in (True, False)
        )
        assert num_bad >= 2
        assert num_bad > num_good


@pytest.mark.parametrize("name", EVERY)
def test_a_recovered_study_stops_the_same_trials(name: str) -> None:
    made = RecordedStudy(
        spec(NUMBERS, "tpe", params={"n_startup_trials": 3}, pruner=name, pruner_params=PARAMS.get(name))
    )
    for level in LEVELS[:6]:
        run_trial(made, level)
    (active,) = made.suggest("slow")
    made.measure(active.number, 1, loss=0.33)
    after = made.recovered()
    for step in range(2, NUM_STEPS + 1):
        expected = made.measure(active.number, step, loss=0.6)
        assert after.measure(active.number, step, loss=0.6) == expected
        if expected:
            break
    for level in LEVELS[6:]:
        assert run_trial(after, level) == run_trial(made, level)
    states = [[trial.state for trial in one.study.trials.values()] for one in (made, after)]
    assert states[0] == states[1]
    assert made.suggest()[0].parameters == after.suggest()[0].parameters


def test_a_decision_to_stop_is_final_and_asking_again_changes_nothing() -> None:
    study = RecordedStudy(spec(NUMBERS, pruner="asha"))
    run_trial(study, 0.1)
    (trial,) = study.suggest()
    assert study.measure(trial.number, 1, loss=0.9)
    sequence = study.study.sequence
    assert study.study.check_early_stopping(trial.number) == (True, None)
    study.measure(trial.number, 2, loss=0.0)
    assert study.study.check_early_stopping(trial.number) == (True, None)
    assert study.study.sequence == sequence + 1
    assert study.study.trials[trial.number].state == TrialState.STOPPING


def test_asking_twice_about_one_measurement_gives_the_same_answer() -> None:
    study = RecordedStudy(spec(NUMBERS, pruner="successive_halving"))
    for level in (0.1, 0.05):
        (trial,) = study.suggest()
        assert not study.measure(trial.number, 1, loss=level)
        assert study.study.check_early_stopping(trial.number) == (False, None)
        study.succeed(trial.number)


def test_a_trial_without_measurements_is_not_stopped() -> None:
    for name in EVERY:
        study = RecordedStudy(spec(NUMBERS, pruner=name, pruner_params=PARAMS.get(name)))
        (trial,) = study.suggest()
        assert study.study.check_early_stopping(trial.number) == (False, None)


@pytest.mark.parametrize("name", EVERY)
def test_values_that_are_not_finite_are_decided_too(name: str) -> None:
    study = RecordedStudy(spec(NUMBERS, pruner=name, pruner_params=PARAMS.get(name)))
    for value in (float("nan"), float("inf"), 0.3, float("-inf")):
        (trial,) = study.suggest()
        study.measure(trial.number, 1, loss=value)
        study.study.complete(trial.number, Outcome(TrialState.STOPPED))
    assert len(study.recovered().study.trials) == 4


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("hyperband", {}, "requires the parameter 'max_resource'"),
        ("hyperband", {"max_resource": 3, "min_resource": 4}, "from 1 to max_resource"),
        ("asha", {"reduction_factor": 1}, "reduction_factor"),
        ("asha", {"min_early_stopping_rate": 10**9}, "min_early_stopping_rate is 1000000000; it must be at most"),
        ("successive_halving", {"reduction_factor": 10**9}, "reduction_factor is 1000000000; it must be at most"),
        ("hyperband", {"max_resource": 10**15}, "max_resource is 1000000000000000; it must be at most"),
        ("median", {"n_startup_trials": -1}, "startup"),
        ("percentile", {"percentile": 101.0}, "[Pp]ercentile"),
        ("patient", {"patience": -1}, "patience"),
        ("patient", {"patience": 1, "wrapped": {"name": "axe"}}, "unknown pruner 'axe'"),
        ("threshold", {}, "lower or upper"),
        ("wilcoxon", {"p_threshold": 2.0}, "p_threshold"),
    ],
)
def test_wrong_parameters_are_found_before_the_first_trial(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as error:
        Study("studies/s", spec(NUMBERS, pruner=name, pruner_params=params))
    assert error.value.field.startswith("spec.pruner")


def test_a_pruner_that_raises_leaves_the_trial_active(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(optuna.pruners.NopPruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            if trial.last_step is not None:
                raise ZeroDivisionError("no shears")
            return False

    def broken(context: Context) -> optuna.pruners.BasePruner:
        return Broken()

    monkeypatch.setitem(PRUNERS._registered, "broken", broken)
    study = RecordedStudy(spec(NUMBERS, pruner="broken"))
    (trial,) = study.suggest()
    with pytest.raises(FailedPrecondition, match="no shears") as error:
        study.measure(trial.number, 1, loss=1.0)
    assert error.value.reason == "PRUNER_FAILED"
    assert study.succeed(trial.number, loss=1.0) is not None
