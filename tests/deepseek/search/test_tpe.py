"""The fast TPE suggests what Optuna's own suggests."""

import math
import random

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from deepseek.search import tpe
from deepseek.search.engine import distribution
from deepseek.search.space import Choices, FloatRange, IntegerRange, ParameterSpec, Space
from tests.deepseek.search.specs import MIXED, NUMBERS, STEPPED
from tests.deepseek.search.studies import loss_of

WIDE = Space(
    (
        ParameterSpec("width", IntegerRange(1, 100_000)),
        ParameterSpec("z", FloatRange(-1e6, 1e6)),
        ParameterSpec("kind", Choices(("a", "b"))),
        ParameterSpec("share", FloatRange(0.0, 1.0, step=0.1)),
    )
)


def study_of(space: Space, num_trials: int, seed: int) -> optuna.Study:
    """A study with trials in every state, some of which violate a constraint."""
    source = random.Random(seed)
    study = optuna.create_study()
    distributions = {one.name: distribution(one.domain) for one in space.parameters}
    for number in range(num_trials):
        point = space.draw(source)
        assert point is not None
        state = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL][
            source.choices(range(4), (80, 10, 5, 5))[0]
        ]
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                params=point,
                distributions=distributions,
                value=loss_of(point)[0] if state == TrialState.COMPLETE else None,
                intermediate_values={number % 4: source.random()} if state == TrialState.PRUNED else {},
                system_attrs={"constraints:size": source.uniform(-3, 1)},
            )
        )
    return study


def suggested(study: optuna.Study, space: Space, sampler: optuna.samplers.BaseSampler) -> dict[str, object]:
    study.sampler = sampler
    trial = study.ask({one.name: distribution(one.domain) for one in space.parameters})
    study.tell(trial, state=TrialState.FAIL)
    return trial.params


@pytest.mark.parametrize("space", [NUMBERS, MIXED, STEPPED, WIDE], ids=["numbers", "mixed", "stepped", "wide"])
@pytest.mark.parametrize("num_trials", [15, 60])
def test_suggestions_are_those_of_optuna(space: Space, num_trials: int) -> None:
    study = study_of(space, num_trials, seed=3)
    distributions = {one.name: distribution(one.domain) for one in space.parameters}
    reused = tpe.TPESampler(multivariate=True)
    for seed in range(8):
        options = {"multivariate": True, "seed": seed}
        expected = suggested(study, space, optuna.samplers.TPESampler(**options))  # type: ignore[arg-type]
        reused.reseed(seed)
        number = len(study.trials)
        for found in (suggested(study, space, tpe.TPESampler(**options)), reused.draw(study, number, distributions)):
            assert found is not None
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                assert found[name] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value)


def test_a_point_is_drawn_at_once_only_after_the_random_trials() -> None:
    distributions = {one.name: distribution(one.domain) for one in NUMBERS.parameters}
    study = study_of(NUMBERS, 5, seed=1)
    assert tpe.TPESampler(multivariate=True).draw(study, 5, distributions) is None
    assert tpe.TPESampler(multivariate=True, n_startup_trials=0).draw(optuna.create_study(), 0, distributions) is None
    study = study_of(NUMBERS, 30, seed=1)
    assert tpe.TPESampler(multivariate=False).draw(study, 30, distributions) is None
    drawn = tpe.TPESampler(multivariate=True).draw(study, 30, distributions)
    assert drawn is not None
    assert NUMBERS.problem(drawn) == ""


def test_the_mass_of_the_normal_distribution_is_exact_in_its_tails() -> None:
    low = np.array([-1.0, -40.0, 39.0, -1e3, 0.0, -21.0, 5.0])
    high = np.array([1.0, -39.0, 40.0, -999.0, 1e-3, -20.5, 6.0])
    # From mpmath, with 50 digits: log(erfc(a / sqrt 2) / 2 - erfc(b / sqrt 2) / 2).
    expected = [
        math.log(math.erf(math.sqrt(0.5))),
        -765.08315656437754,
        -765.08315656437754,
        -499008.32569431385,
        math.log(0.5 * math.erf(1e-3 / math.sqrt(2))),
        -214.06675942705857,
        math.log(0.5 * (math.erfc(5 / math.sqrt(2)) - math.erfc(6 / math.sqrt(2)))),
    ]
    assert tpe._log_mass(low, high) == pytest.approx(expected, rel=1e-12)
