"""Grid search over the points of a space.

Optuna's own grid sampler suggests a point to two workers once all points are under way, and ends a study by an
exception outside of its own loop. It knows neither conditions nor constraints.
"""

import random
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import optuna

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.search.context import Context
from deepseek.search.space import MAX_DRAWN_VALUES, Space, Value
from deepseek.search.study_spec import MAX_TRIALS


class GridSampler(optuna.samplers.BaseSampler):
    """Suggests every point of a space once, in an order that depends only on the seed of the study.

    Raises:
        InvalidArgument: BAD_VALUE if the space has too many points.
    """

    def __init__(self, context: Context) -> None:
        self._points = _points(context.space, context.study_seed)
        self._point: Mapping[str, Value] = {}

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        """Chooses the first point that no trial has had.

        Raises:
            FailedPrecondition: SPACE_EXHAUSTED.
        """
        trials = study.get_trials(deepcopy=False)
        tried = {frozenset(other.params.items()) for other in trials if other.number != trial.number}
        # Usually, the trial with number n gets point n. Another algorithm's points may have been tried out of order.
        first = min(trial.number, len(self._points))
        for point in [*self._points[first:], *self._points[:first]]:
            if frozenset(point.items()) not in tried:
                self._point = point
                return
        message = "every combination of values has been suggested; there is nothing left to try"
        raise FailedPrecondition("SPACE_EXHAUSTED", message)

    def infer_relative_search_space(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        """Returns an empty space: parameters are set one by one."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any]:
        """Returns nothing; see `infer_relative_search_space`."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """Returns the value of a parameter at the chosen point."""
        return self._point[param_name]


def listed(space: Space) -> list[dict[str, Value]]:
    """Returns all points of a space that is small enough to list them.

    Raises:
        InvalidArgument: BAD_VALUE if it is not.
    """
    points = space.points(MAX_TRIALS)
    if points is None:
        message = (
            f"the algorithm lists all combinations: at most {MAX_TRIALS:,}, with {MAX_DRAWN_VALUES:,} values in all, "
            "and float ranges need a step; use random or qmc"
        )
        raise InvalidArgument("BAD_VALUE", message)
    return points


@lru_cache(maxsize=2)
def _points(space: Space, seed: int) -> tuple[Mapping[str, Value], ...]:
    points = listed(space)
    random.Random(seed).shuffle(points)
    return tuple(points)
