"""NSGA-II over the genes of a space, by Optuna.

NSGA-II (Deb et al. 2002, doi:10.1109/4235.996017) evolves a population towards the Pareto front of several objectives.
Optuna chooses the parents, crosses and mutates their genes; this module translates between genes and networks. The
study lies in memory. With the same seed and the same values, it proposes the same networks, so a search resumes by
repeating its steps.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from common.errors import InvalidArgument
from deepseek.nas.space import Space, SpecT


@dataclass(frozen=True)
class Proposal(Generic[SpecT]):
    """A network that NSGA-II proposes.

    Attributes:
        number: Number of the proposal, from 0.
        spec: The network.
    """

    number: int
    spec: SpecT


class Evolution(Generic[SpecT]):
    """A population of networks under NSGA-II. Not thread-safe.

    Args:
        space: Space of the networks.
        maximized: For each objective, whether more is better.
        population: Number of networks of a generation; at least 2.
        seed: Seed of all random choices.
        first: Networks with which the first generation begins; the others are random.

    Raises:
        InvalidArgument: BAD_VALUE at `population` or `maximized`.
    """

    def __init__(
        self, space: Space[SpecT], *, maximized: Sequence[bool], population: int, seed: int, first: Sequence[SpecT] = ()
    ) -> None:
        if population < 2:
            raise InvalidArgument("BAD_VALUE", f"population is {population}; use at least 2", field="population")
        if not maximized:
            raise InvalidArgument("BAD_VALUE", "there are no objectives; give at least one", field="maximized")
        self._space = space
        self._distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(values) for name, values in space.choices().items()
        }
        self._sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
        directions = [StudyDirection.MAXIMIZE if one else StudyDirection.MINIMIZE for one in maximized]
        with _quiet():
            self._study = optuna.create_study(directions=directions, sampler=self._sampler)
            for spec in first:
                self._study.enqueue_trial(dict(space.genes(spec)))

    def ask(self) -> Proposal[SpecT]:
        """Returns the next network. `tell` or `refuse` must answer every proposal."""
        with _quiet():
            trial = self._study.ask(self._distributions)
            # Optuna itself does not assign networks that are proposed before any has values to the first generation, so
            # they would not become parents.
            self._sampler.get_trial_generation(self._study, self._study.get_trials(deepcopy=False)[trial.number])
        return Proposal(trial.number, self._space.spec(trial.params))

    def tell(self, proposal: Proposal[SpecT], values: Sequence[float]) -> None:
        """Reports the values of a proposal.

        A proposal with a value that is not finite counts as a member of its generation that is worse than all others.
        If it were refused, its generation would remain incomplete, and the next one would have the same parents.
        """
        if not all(math.isfinite(value) for value in values):
            values = [-math.inf if one == StudyDirection.MAXIMIZE else math.inf for one in self._study.directions]
        with _quiet():
            self._study.tell(proposal.number, list(values))

    def refuse(self, proposal: Proposal[SpecT]) -> None:
        """Declines a proposal. It is not counted as a member of its generation."""
        with _quiet():
            self._study.tell(proposal.number, state=TrialState.FAIL)

    def front(self) -> list[tuple[SpecT, tuple[float, ...]]]:
        """Returns the networks that no other network dominates, with their values, in the order of their proposal."""
        best = [trial for trial in self._study.best_trials if all(map(math.isfinite, trial.values))]
        found = sorted(best, key=lambda trial: trial.number)
        return [(self._space.spec(_params(trial)), tuple(trial.values)) for trial in found]


def _params(trial: Any) -> Mapping[str, Any]:
    params: Mapping[str, Any] = trial.params
    return params


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides messages of Optuna below warnings, and restores the verbosity of the program afterwards."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(verbosity, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
