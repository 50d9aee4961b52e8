"""Every algorithm: what it suggests, and that a recovered study continues with the same suggestions."""

import importlib.util
import random
from typing import Any

import optuna
import pytest

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.components import ALGORITHMS
from deepseek.search.context import Context
from deepseek.search.space import Choices, LinearConstraint, ParameterSpec, Space
from deepseek.search.study import Study
from deepseek.search.study_spec import OutcomeConstraint
from deepseek.search.trials import Outcome, Trial, TrialState
from tests.deepseek.search.specs import CONDITIONAL, CONSTRAINED, EXCLUSIVE, MIXED, NUMBERS, STEPPED, spec
from tests.deepseek.search.studies import RecordedStudy, evaluate, loss_of, losses_of

PARAMS: dict[str, dict[str, Any]] = {
    "cmaes": {"popsize": 5},
    "gp": {"n_startup_trials": 3},
    "nsga2": {"population_size": 5},
    "nsga3": {"population_size": 5, "dividing_parameter": 2},
    "partial_fixed": {"fixed": {"depth": 3}, "base": {"name": "tpe", "params": {"n_startup_trials": 4}}},
    "tpe": {"n_startup_trials": 4},
}
EVERY = ["brute_force", "cmaes", "gp", "grid", "nsga2", "nsga3", "partial_fixed", "qmc", "random", "tpe"]
SPACES = {"brute_force": STEPPED, "grid": STEPPED}
MULTIPLE = ["gp", "nsga2", "nsga3", "random", "tpe"]
NUM_TRIALS = {"gp": 6}
WIDE = Space(tuple(ParameterSpec(f"p{i}", Choices((0, 1) if i < 13 else (0,))) for i in range(987)))
"""8,192 points with 987 values each."""


def test_these_are_all_algorithms_and_all_samplers_of_optuna() -> None:
    assert {name for name in ALGORITHMS.names() if name in EVERY} == set(EVERY)
    samplers = {name for name in optuna.samplers.__all__ if name.endswith("Sampler") and not name.startswith("Base")}
    assert samplers == {
        "BruteForceSampler",
        "CmaEsSampler",
        "GPSampler",
        "GridSampler",
        "NSGAIIISampler",
        "NSGAIISampler",
        "PartialFixedSampler",
        "QMCSampler",
        "RandomSampler",
        "TPESampler",
    }


@pytest.mark.parametrize("name", EVERY)
def test_suggestions_are_points_of_the_space_and_stay_the_same_after_a_recovery(name: str) -> None:
    space = SPACES.get(name, NUMBERS)
    made = RecordedStudy(spec(space, name, params=PARAMS.get(name)))
    for number in range(NUM_TRIALS.get(name, 13)):
        (trial,) = made.suggest(f"worker-{number % 2}")
        assert space.problem(trial.parameters) == ""
        if number % 5 != 4:  # the others stay active
            evaluate(made, trial, loss_of)
        else:
            made.suggest("worker-9", number)
    after = made.recovered()
    for _ in range(3):
        (expected,), (found,) = made.suggest("new"), after.suggest("new")
        assert found.parameters == expected.parameters
        for study in (made, after):
            evaluate(study, expected, loss_of)
    assert after.study.sequence == made.study.sequence


@pytest.mark.parametrize("name", MULTIPLE)
def test_several_objectives_have_a_front_that_survives_a_recovery(name: str) -> None:
    made = RecordedStudy(spec(NUMBERS, name, params=PARAMS.get(name), num_objectives=2))
    for _ in range(NUM_TRIALS.get(name, 17)):
        (trial,) = made.suggest()
        evaluate(made, trial, losses_of)
    after = made.recovered()
    front = [trial.number for trial in made.study.optimal()]
    assert front == [trial.number for trial in after.study.optimal()]
    assert front
    assert made.suggest()[0].parameters == after.suggest()[0].parameters


@pytest.mark.parametrize("name", MULTIPLE)
def test_a_stopped_trial_with_a_measurement_does_not_end_a_study_with_several_objectives(name: str) -> None:
    made = RecordedStudy(spec(NUMBERS, name, params=PARAMS.get(name), num_objectives=2))
    for number in range(NUM_TRIALS.get(name, 13)):
        (trial,) = made.suggest()
        if number % 4 == 1:
            made.measure(trial.number, 1, loss=0.5)
            made.study.complete(trial.number, Outcome(TrialState.STOPPED))
        else:
            evaluate(made, trial, losses_of)
    after = made.recovered()
    assert made.suggest()[0].parameters == after.suggest()[0].parameters


@pytest.mark.parametrize("seed", range(6))
def test_trials_that_end_in_another_order_do_not_change_suggestions_after_a_recovery(seed: int) -> None:
    made = RecordedStudy(spec(EXCLUSIVE, "tpe", params={"n_startup_trials": 4}, seed=seed + 1))
    chance = random.Random(seed)
    active: list[Trial] = []
    for number in range(24):
        active += made.suggest(f"worker-{number}")
        while active and chance.random() < 0.5:
            evaluate(made, active.pop(chance.randrange(len(active))), loss_of)
    after = made.recovered()
    for _ in range(3):
        (expected,), (found,) = made.suggest("new"), after.suggest("new")
        assert found.parameters == expected.parameters
        for study in (made, after):
            evaluate(study, expected, loss_of)


@pytest.mark.parametrize("name", ["cmaes", "nsga2", "partial_fixed", "qmc", "random", "tpe", "grid", "brute_force"])
def test_conditions_hold_in_every_suggestion(name: str) -> None:
    space = CONDITIONAL
    if name in ("grid", "brute_force"):
        space = Space((STEPPED.parameters[2], STEPPED.parameters[1]))
    params = {**PARAMS.get(name, {}), **({"fixed": {"depth": 3}} if name == "partial_fixed" else {})}
    made = RecordedStudy(spec(space, name, params=params))
    for _ in range(6 if space is not CONDITIONAL else 25):
        (trial,) = made.suggest()
        assert space.problem(trial.parameters) == ""
        evaluate(made, trial, loss_of)
    if space is CONDITIONAL:
        assert made.recovered().suggest()[0].parameters == made.suggest()[0].parameters


@pytest.mark.parametrize("name", ["cmaes", "nsga2", "qmc", "random", "tpe"])
def test_constraints_on_parameters_hold_in_every_suggestion(name: str) -> None:
    made = RecordedStudy(spec(CONSTRAINED, name, params=PARAMS.get(name)))
    for _ in range(20):
        (trial,) = made.suggest()
        assert CONSTRAINED.satisfies(trial.parameters)
        evaluate(made, trial, lambda parameters: (-float(parameters["width"]),))
    assert made.recovered().suggest()[0].parameters == made.suggest()[0].parameters


def test_a_narrow_constraint_is_satisfied_by_random_points_if_the_algorithm_cannot() -> None:
    narrow = Space(NUMBERS.parameters, (LinearConstraint((("share", 1.0),), 0.003),))
    made = RecordedStudy(spec(narrow, "qmc"))
    for _ in range(5):
        (trial,) = made.suggest()
        assert float(trial.parameters["share"]) <= 0.003
        evaluate(made, trial, loss_of)


@pytest.mark.parametrize("name", ["gp", "nsga2", "tpe"])
def test_constraints_on_metrics_are_learned(name: str) -> None:
    constraint = OutcomeConstraint("bytes", at_most=0.4)
    made = RecordedStudy(spec(NUMBERS, name, params=PARAMS.get(name), constraints=(constraint,)))
    shares = []
    for _ in range({"gp": 10}.get(name, 40)):
        (trial,) = made.suggest()
        shares.append(float(trial.parameters["share"]))
        ended = made.succeed(trial.number, loss=-shares[-1], bytes=shares[-1])
        assert ended is not None
        assert ended.feasible == (shares[-1] <= 0.4)
    # Without the constraint, the best trials have a share near 1.
    assert sum(shares[-6:]) / 6 < 0.7
    assert all(trial.feasible for trial in made.study.optimal())
    assert made.recovered().suggest()[0].parameters == made.suggest()[0].parameters


@pytest.mark.parametrize("name", ["grid", "brute_force"])
def test_every_combination_is_suggested_once_and_then_none(name: str) -> None:
    made = RecordedStudy(spec(STEPPED, name))
    trials = made.suggest("a", 12) + made.suggest("b", 12)
    for trial in trials[:7]:
        evaluate(made, trial, loss_of)
    made = made.recovered()
    trials += made.suggest("c", 100)
    assert len({tuple(sorted(trial.parameters.items())) for trial in trials}) == len(trials) == 30
    for trial in trials[7:]:
        evaluate(made, trial, loss_of)
    with pytest.raises(FailedPrecondition) as error:
        made.suggest("d")
    assert error.value.reason == "SPACE_EXHAUSTED"
    assert len(made.study.trials) == 30


@pytest.mark.parametrize("base", ["grid", "brute_force"])
@pytest.mark.parametrize("fixed", [{"share": 0.5}, {"norm": "group"}, {"depth": 2, "norm": "batch"}])
def test_with_fixed_parameters_every_other_combination_is_suggested_once(base: str, fixed: dict[str, Any]) -> None:
    made = RecordedStudy(spec(STEPPED, "partial_fixed", params={"fixed": fixed, "base": {"name": base}}))
    trials = made.suggest("a", 3)
    evaluate(made, trials[0], loss_of)
    made = made.recovered()
    trials += made.suggest("b", 100)
    points = {tuple(sorted(trial.parameters.items())) for trial in trials}
    expected = [point for point in STEPPED.points(100) or () if fixed.items() <= point.items()]
    assert len(trials) == len(points) == len(expected) > 3
    with pytest.raises(FailedPrecondition) as error:
        made.suggest("c")
    assert error.value.reason == "SPACE_EXHAUSTED"
    assert made.recovered().study.exhausted


@pytest.mark.parametrize(
    ("name", "space", "params", "message"),
    [
        ("grid", NUMBERS, {}, "float ranges need a step"),
        ("brute_force", NUMBERS, {}, "float ranges need a step"),
        ("grid", WIDE, {}, "1,000,000 values in all"),
        ("brute_force", WIDE, {}, "1,000,000 values in all"),
        ("cmaes", Space((STEPPED.parameters[2],)), {}, "needs a parameter with a range"),
        ("nsga2", MIXED, {"crossover": "spx"}, "without choices"),
        ("nsga2", NUMBERS, {"crossover": "kiss"}, "known: uniform"),
        ("nsga2", NUMBERS, {"population_size": 1}, "population_size"),
        ("nsga2", NUMBERS, {"population_size": 10**9}, "population_size is 1000000000; it must be at most"),
        ("nsga3", NUMBERS, {"dividing_parameter": 10**9}, "dividing_parameter is 1000000000; it must be at most"),
        ("cmaes", NUMBERS, {"popsize": 10**9}, "popsize is 1000000000; it must be at most"),
        ("gp", NUMBERS, {"max_trials": 10**9}, "max_trials is 1000000000; it must be at most"),
        ("tpe", NUMBERS, {"n_ei_candidates": 10**9}, "n_ei_candidates is 1000000000; it must be at most"),
        ("qmc", NUMBERS, {"qmc_type": "dice"}, "qmc_type"),
        ("tpe", NUMBERS, {"n_startup_trial": 1}, "has no parameter 'n_startup_trial'"),
        ("tpe", NUMBERS, {"n_startup_trials": "many"}, "not of type int"),
        ("partial_fixed", NUMBERS, {"fixed": {"depth": 2}}, "cannot be fixed"),
        ("partial_fixed", NUMBERS, {"fixed": {}, "base": {"name": "tarot"}}, "unknown algorithm 'tarot'"),
    ],
)
def test_wrong_parameters_are_found_before_the_first_trial(
    name: str, space: Space, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message) as error:
        Study("studies/s", spec(space, name, params=params))
    assert error.value.field.startswith("spec.algorithm")


def test_reference_points_of_many_objectives_are_limited() -> None:
    with pytest.raises(InvalidArgument, match="reference points, above 10,000"):
        Study("studies/s", spec(NUMBERS, "nsga3", params={"dividing_parameter": 50}, num_objectives=8))


def test_cmaes_refuses_several_objectives() -> None:
    with pytest.raises(InvalidArgument, match="one objective"):
        Study("studies/s", spec(NUMBERS, "cmaes", num_objectives=2))


@pytest.mark.parametrize(("name", "package"), [("gp", "torch"), ("cmaes", "cmaes"), ("qmc", "scipy")])
def test_a_missing_package_is_found_before_the_first_trial(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "deepseek.search.algorithms.find_spec", lambda wanted: None if wanted == package else real(wanted)
    )
    with pytest.raises(FailedPrecondition, match=f"needs {package}") as error:
        Study("studies/s", spec(NUMBERS, name))
    assert error.value.reason == "MISSING_PACKAGE"


def test_a_gaussian_process_leaves_long_studies_to_tpe() -> None:
    context = Context(NUMBERS, 1, 5, 7, num_ended=3)
    assert isinstance(ALGORITHMS.build("gp", {"max_trials": 3}, context=context), optuna.samplers.TPESampler)
    assert isinstance(ALGORITHMS.build("gp", {"max_trials": 4}, context=context), optuna.samplers.GPSampler)


def test_an_algorithm_that_raises_ends_neither_the_study_nor_its_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(context: Context) -> optuna.samplers.BaseSampler:
        if context.num_ended == 1:
            raise RuntimeError("no idea")
        return optuna.samplers.RandomSampler(seed=context.seed)

    monkeypatch.setitem(ALGORITHMS._registered, "broken", broken)
    made = RecordedStudy(spec(NUMBERS, "broken"))
    first, second = made.suggest("a", 2)
    made.study._engine._num_ended = 1
    with pytest.raises(FailedPrecondition, match="no idea") as error:
        made.suggest("b")
    assert error.value.reason == "ALGORITHM_FAILED"
    assert list(made.study.trials) == [first.number, second.number]
