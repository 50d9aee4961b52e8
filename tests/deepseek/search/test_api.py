"""Searches in one process, with any Python function."""

import subprocess
import sys
import threading

import pytest

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.search.api import (
    Choices,
    Condition,
    FloatRange,
    IntegerRange,
    Objective,
    OutcomeConstraint,
    ParameterSpec,
    RunningTrial,
    Space,
    StoppedEarly,
    run_study,
    search,
)
from deepseek.search.study_spec import StudySpec
from deepseek.search.trials import TrialState

LINE = {"x": FloatRange(-10.0, 10.0)}


def distance(trial: RunningTrial) -> float:
    return abs(float(trial["x"]) - 2)


def test_a_search_finds_the_minimum_and_the_maximum() -> None:
    smallest = search(distance, LINE, num_trials=40, seed=3)
    greatest = search(distance, LINE, num_trials=40, seed=3, maximize=True)
    assert len(smallest.trials) == 40
    assert smallest.best.metrics["value"] < 0.5
    assert greatest.best.metrics["value"] > 11
    assert smallest.best.metrics["value"] == min(trial.metrics["value"] for trial in smallest.trials)


def test_the_same_seed_gives_the_same_trials() -> None:
    runs = [search(distance, LINE, num_trials=15, seed=seed).trials for seed in (5, 5, 6)]
    parameters = [[trial.parameters for trial in run] for run in runs]
    assert parameters[0] == parameters[1] != parameters[2]


def test_a_seed_is_drawn_if_none_is_given() -> None:
    runs = [search(distance, LINE, num_trials=1).best.parameters for _ in range(2)]
    assert runs[0] != runs[1]


def test_values_have_the_types_of_their_ranges() -> None:
    seen: list[RunningTrial] = []
    space = {
        "rate": FloatRange(1e-4, 1.0, log=True),
        "layers": IntegerRange(1, 4),
        "kind": Choices(("a", "b")),
        "bias": Choices((True, False)),
    }

    def objective(trial: RunningTrial) -> float:
        seen.append(trial)
        return 0.0

    search(objective, space, num_trials=12, seed=1)
    assert all([type(trial[name]) for name in space] == [float, int, str, bool] for trial in seen)


def test_a_pruner_ends_trials_early() -> None:
    num_steps = 0

    def objective(trial: RunningTrial) -> float:
        nonlocal num_steps
        for step in range(1, 10):
            num_steps += 1
            trial.report(step, distance(trial) / step)
        return distance(trial) / 9

    result = search(objective, LINE, num_trials=30, pruner="asha", seed=2)
    stopped = [trial for trial in result.trials if trial.state == TrialState.STOPPED]
    assert len(stopped) > 10
    assert num_steps < 30 * 9 / 2
    assert all(trial.last_step in (1, 3, 9) for trial in stopped)
    assert result.best.state == TrialState.SUCCEEDED


def test_several_metrics_have_a_front_and_constraints() -> None:
    spec = StudySpec(
        Space((ParameterSpec("x", FloatRange(0.0, 1.0)), ParameterSpec("y", FloatRange(0.0, 1.0)))),
        (Objective("error"), Objective("speed", maximize=True)),
        (OutcomeConstraint("bytes", at_most=0.8),),
        seed=4,
        max_trials=40,
    )
    result = run_study(
        lambda trial: {"error": float(trial["x"]), "speed": float(trial["x"]) - float(trial["y"]), "bytes": trial["y"]},
        spec,
    )
    assert len(result.optimal) > 1
    assert all(trial.metrics["bytes"] <= 0.8 for trial in result.optimal)


def test_conditions_leave_parameters_out() -> None:
    space = Space(
        (
            ParameterSpec("kind", Choices(("plain", "scaled"))),
            ParameterSpec("scale", FloatRange(1.0, 2.0), (Condition("kind", ("scaled",)),)),
        )
    )
    result = search(lambda trial: float(trial.parameters.get("scale", 3.0)), space, num_trials=20, seed=1)
    assert result.best.parameters["kind"] == "scaled"


def test_workers_evaluate_trials_at_the_same_time() -> None:
    barrier = threading.Barrier(3, timeout=20)
    result = search(lambda trial: float(barrier.wait()), LINE, num_trials=6, num_workers=3, seed=1)
    assert len(result.trials) == 6
    assert {trial.client_id for trial in result.trials} == {"worker-0", "worker-1", "worker-2"}


def test_an_exception_of_the_objective_ends_the_search_unless_it_is_caught() -> None:
    def objective(trial: RunningTrial) -> float:
        if trial.number % 2:
            raise OverflowError("too big")
        return 1.0

    with pytest.raises(OverflowError, match="too big"):
        search(objective, LINE, num_trials=4)
    result = search(objective, LINE, num_trials=4, catch=(OverflowError,))
    assert [trial.state for trial in result.trials] == ["failed", "succeeded"] * 2
    assert (result.trials[0].failure_reason, result.trials[0].failure_message) == ("OBJECTIVE_RAISED", "too big")


def test_a_search_ends_at_its_time_limit() -> None:
    assert search(distance, LINE, num_trials=5, timeout_s=0.0).trials == []


def test_without_a_result_the_best_trial_does_not_exist() -> None:
    result = search(lambda trial: float("nan"), LINE, num_trials=3)
    assert {trial.failure_reason for trial in result.trials} == {"NOT_FINITE"}
    with pytest.raises(FailedPrecondition) as error:
        result.best  # noqa: B018
    assert error.value.reason == "NO_RESULT"


def test_a_grid_ends_when_it_is_complete() -> None:
    space = {"kind": Choices(("a", "b")), "size": IntegerRange(1, 3)}
    result = search(lambda trial: float(trial["size"]), space, num_trials=100, algorithm="grid", num_workers=2)
    assert len(result.trials) == 6


@pytest.mark.parametrize("value", [None, True, "1"])
def test_a_value_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgument, match="by name"):
        search(lambda trial: value, LINE, num_trials=1)  # type: ignore[arg-type, return-value]


def test_wrong_arguments_are_refused() -> None:
    for arguments, field in (
        ({"num_trials": 0}, "num_trials"),
        ({"num_trials": 1, "num_workers": 0}, "num_workers"),
        ({"num_trials": 1, "algorithm": "tarot"}, "spec.algorithm.name"),
        ({"num_trials": 10_001}, "spec.max_trials"),
    ):
        with pytest.raises(InvalidArgument) as error:
            search(distance, LINE, **arguments)  # type: ignore[arg-type]
        assert error.value.field == field
    with pytest.raises(InvalidArgument):
        search(distance, {}, num_trials=1)


def test_an_early_stop_is_an_exception_that_may_leave_the_objective() -> None:
    def objective(trial: RunningTrial) -> float:
        raise StoppedEarly

    assert search(objective, LINE, num_trials=1).trials[0].state == TrialState.STOPPED


def test_specs_are_read_without_optuna() -> None:
    program = "import sys, deepseek.search, deepseek.search.study_spec; print({'optuna', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
