"""Problems on which `benchmarks.tuner` compares searches: two test functions, and the tabular benchmark.

Branin and Hartmann6 are as in Surjanovic and Bingham's Virtual Library of Simulation Experiments. All losses are
minimized.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from benchmarks.tabular.table import Table, read_table
from deepseek.search.space import FloatRange, IntegerRange, ParameterSpec, Space
from deepseek.search.study import Study
from deepseek.search.study_spec import Objective, StudySpec
from deepseek.search.trials import Outcome, TrialState
from deepseek.trainjob.spec_parts import Component

NUM_TRIALS = 100
"""Number of random trials whose best loss is the target."""
MAX_TRIALS = 300
"""Number of trials after which a search counts as not having reached the target."""

_HARTMANN_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
_HARTMANN_A = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
_HARTMANN_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


@dataclass(frozen=True)
class Problem:
    """A function to minimize.

    Attributes:
        space: Its search space.
        losses: Maps a point to its losses at steps 1, 2, …; the last one is the result.
    """

    space: Space
    losses: Callable[[Mapping[str, Any]], Sequence[float]]


def branin(point: Mapping[str, Any]) -> float:
    """Returns the value of Branin's function, whose minimum is 0.397887.

    >>> round(branin({"x1": math.pi, "x2": 2.275}), 6)
    0.397887
    """
    x1, x2 = point["x1"], point["x2"]
    curve = x2 - 5.1 / (4 * math.pi**2) * x1**2 + 5 / math.pi * x1 - 6
    return float(curve**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x1) + 10)


def hartmann6(point: Mapping[str, Any]) -> float:
    """Returns the value of the six-dimensional Hartmann function, whose minimum is -3.32237.

    >>> best = (0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573)
    >>> round(hartmann6({f"x{i}": value for i, value in enumerate(best)}), 4)
    -3.3224
    """
    x = np.array([point[f"x{i}"] for i in range(6)])
    return float(-(_HARTMANN_ALPHA * np.exp(-(_HARTMANN_A * (x - _HARTMANN_P) ** 2).sum(1))).sum())


@cache
def problems() -> dict[str, Problem]:
    """Returns all problems by name."""
    table = read_table()
    return {
        "branin": Problem(
            Space((ParameterSpec("x1", FloatRange(-5.0, 10.0)), ParameterSpec("x2", FloatRange(0.0, 15.0)))),
            lambda point: [branin(point)],
        ),
        "hartmann6": Problem(
            Space(tuple(ParameterSpec(f"x{i}", FloatRange(0.0, 1.0)) for i in range(6))),
            lambda point: [hartmann6(point)],
        ),
        "tabular": Problem(
            Space(tuple(ParameterSpec(name, IntegerRange(0, len(one) - 1)) for name, one in table.space.items())),
            lambda point: _errors(table, point),
        ),
    }


def best_of_random(name: str, seed: int) -> float:
    """Returns the best loss of 100 random trials."""
    study, problem = _study(name, "random", "none", seed), problems()[name]
    found = []
    for number in range(1, NUM_TRIALS + 1):
        (trial,), _ = study.suggest("worker")
        found.append(problem.losses(trial.parameters)[-1])
        study.complete(number, Outcome(TrialState.SUCCEEDED, {"loss": found[-1]}))
    return min(found)


def effort(name: str, seed: int, target: float, *, algorithm: str, pruner: str = "none") -> dict[str, int]:
    """Searches until a complete trial has at most a certain loss.

    Args:
        name: Name of the problem.
        seed: Seed of the study.
        target: The loss.
        algorithm: Search algorithm.
        pruner: Pruner, which is asked after every step.

    Returns:
        `trials` and `steps`: their number until then; `reached`: 1 if the search has reached the target. A search that
        has not counts as if it had completed 300 trials, however early it stopped them.
    """
    study, problem = _study(name, algorithm, pruner, seed), problems()[name]
    num_steps = 0
    for number in range(1, MAX_TRIALS + 1):
        (trial,), _ = study.suggest("worker")
        losses = problem.losses(trial.parameters)
        outcome = Outcome(TrialState.SUCCEEDED, {"loss": losses[-1]})
        for step, loss in enumerate(losses, start=1):
            num_steps += 1
            study.measure(number, step, {"loss": loss})
            if step < len(losses) and study.check_early_stopping(number)[0]:
                outcome = Outcome(TrialState.STOPPED)
                break
        study.complete(number, outcome)
        if outcome.state == TrialState.SUCCEEDED and losses[-1] <= target:
            return {"trials": number, "steps": num_steps, "reached": 1}
    return {"trials": MAX_TRIALS, "steps": MAX_TRIALS * num_steps_of(name), "reached": 0}


def num_steps_of(name: str) -> int:
    """Returns the number of steps of a complete trial."""
    problem = problems()[name]
    return len(problem.losses({parameter.name: 0 for parameter in problem.space.parameters}))


def _study(name: str, algorithm: str, pruner: str, seed: int) -> Study:
    spec = StudySpec(
        problems()[name].space,
        (Objective("loss"),),
        algorithm=Component(algorithm),
        pruner=Component(pruner),
        seed=seed,
    )
    spec.check()
    return Study(f"studies/{name}", spec.with_defaults(seed))


def _errors(table: Table, point: Mapping[str, Any]) -> list[float]:
    parameters = {name: values[point[name]] for name, values in table.space.items()}
    return [1 - accuracy for accuracy in table.curve(parameters).accuracies]
