"""One study as Optuna sees it: asks the algorithm for suggestions, and the pruner for decisions.

Every suggestion is made by a sampler that is built for it, with a seed that follows from the seed of the study and the
number of the trial. The next suggestion therefore depends only on what is stored with the trials, so that a study can
be rebuilt after a crash. A sampler whose state is a pickle is instead rebuilt by asking it for all suggestions again.
"""

import hashlib
import logging
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import optuna
from optuna.trial import TrialState as OptunaState

from common.errors import FailedPrecondition, MeshError
from deepseek.components import ALGORITHMS, PRUNERS
from deepseek.search.context import Context
from deepseek.search.pareto import pareto_front
from deepseek.search.space import Choices, Domain, FloatRange, Point, Value
from deepseek.search.storage import RevocableStorage
from deepseek.search.study_spec import StudySpec
from deepseek.search.tpe import TPESampler
from deepseek.search.trials import Trial, TrialState

NUM_ATTEMPTS = 20
"""Number of suggestions that may violate the constraints on parameters before a random point is used."""

_STATES = {
    TrialState.SUCCEEDED: OptunaState.COMPLETE,
    TrialState.STOPPED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
}
_PICKLED = ":optimizer:"
"""Part of the names of attributes in which CMA-ES keeps a pickle. They are not stored, and thus never unpickled from a
database."""
_REBUILT = ("cma:", "sepcma:", "cmawm:")
"""Prefixes of the attributes of a trial that CMA-ES has suggested."""

_logger = logging.getLogger(__name__)


class Engine:
    """The samplers and the pruner of one study. Not thread-safe.

    Args:
        name: Name of the study, on which Hyperband's assignment of trials to brackets depends.
        spec: Valid spec, with defaults filled in.

    Raises:
        InvalidArgument: The algorithm or pruner rejects its parameters.
        FailedPrecondition: MISSING_PACKAGE or COMPONENT_NOT_IMPORTABLE.
    """

    def __init__(self, name: str, spec: StudySpec) -> None:
        self._spec = spec
        self._storage = RevocableStorage()
        self._num_ended = 0
        self._reused: TPESampler | None = None
        self._distributions = {one.name: distribution(one.domain) for one in spec.space.parameters}
        self._has_single = any(one.single() for one in self._distributions.values())
        ignore_warnings()
        self._study = _Study(name, spec, self._storage, self._build_pruner(), self._build_sampler(0, 0))
        # Hyperband decides on its brackets at the first decision, and needs them for the first suggestion.
        with _reported("PRUNER_FAILED", "pruner"):
            self._study.pruner.prune(self._study, optuna.trial.create_trial(state=OptunaState.RUNNING))

    @property
    def num_trials(self) -> int:
        """Number of trials that were suggested."""
        return len(self._trials())

    @property
    def study_attributes(self) -> dict[str, Any]:
        """What the algorithm has stored with the study; JSON values."""
        return dict(self._storage.get_study_system_attrs(self._study._study_id))

    def suggest(self) -> tuple[Point, Mapping[str, Any]]:
        """Starts the next trial, and returns its parameters and attributes.

        Raises:
            FailedPrecondition: SPACE_EXHAUSTED, NO_FEASIBLE_SUGGESTION or ALGORITHM_FAILED.
        """
        number = self.num_trials
        for attempt in range(NUM_ATTEMPTS):
            point = self._ask(number, attempt)
            if self._spec.space.satisfies(point):
                return point, self.attributes(number)
            self._storage.discard_last(number)
        drawn = self._spec.space.draw(random.Random(self._seed(number, NUM_ATTEMPTS)))
        if drawn is None:
            message = "no suggestion satisfies the constraints on parameters; relax them, or narrow the ranges"
            raise FailedPrecondition("NO_FEASIBLE_SUGGESTION", message)
        self._add(drawn, {})
        return drawn, {}

    def attributes(self, number: int) -> dict[str, Any]:
        """Returns what the algorithm and the pruner have stored with a trial, except for pickles.

        Args:
            number: Number of the trial, starting at 0.
        """
        found = self._storage.get_trial(number).system_attrs
        return {key: value for key, value in found.items() if _PICKLED not in key}

    def measure(self, number: int, step: int, value: float) -> None:
        """Adds a value of the objective to an active trial.

        It is ignored if there are several objectives: Optuna knows no such values then, and TPE would fail at a trial
        that has stopped with one.
        """
        if len(self._spec.objectives) == 1:
            self._storage.measure(number, {step: value})

    def should_stop(self, number: int) -> bool:
        """Asks the pruner once whether an active trial should stop."""
        with _reported("PRUNER_FAILED", "pruner"):
            return bool(self._study.pruner.prune(self._study, self._storage.get_trial(number)))

    def end(self, number: int, state: TrialState, values: Sequence[float], excess: Mapping[str, float]) -> None:
        """Ends a trial.

        Args:
            number: Number of the trial, starting at 0.
            state: Final state.
            values: Values of the objectives, if the trial succeeded.
            excess: How much each outcome constraint is violated.
        """
        for name, value in excess.items():
            self._storage.set_trial_system_attr(number, f"constraints:{name}", value)
        if self._reused is not None:
            self._set_end(number, state, values)  # TPE needs nothing else, and `tell` would copy the whole trial
        else:
            self._tell(number, state, values)
        self._num_ended += 1

    def _tell(self, number: int, state: TrialState, values: Sequence[float]) -> None:
        try:
            self._study.tell(number, list(values) or None, _STATES[state])
        except Exception as error:  # noqa: BLE001 - an algorithm may come from any package
            # Optuna has stored the state nevertheless. A result must not be lost to an algorithm.
            _logger.warning("the algorithm %s failed after a trial: %s", self._spec.algorithm.name, error)
            assert self._storage.get_trial(number).state.is_finished(), "Optuna stores the state in any case"

    def optimal(self) -> list[int]:
        """Returns the numbers, starting at 0, of the best trials: the Pareto front of those that are feasible."""
        signs = [-1 if objective.maximize else 1 for objective in self._spec.objectives]
        numbers, losses = [], []
        for trial in self._trials():
            if trial.state == OptunaState.COMPLETE and all(value <= 0 for value in trial.constraints.values()):
                numbers.append(trial.number)
                losses.append([sign * value for sign, value in zip(signs, trial.values, strict=True)])
        return [numbers[index] for index in pareto_front(losses)]

    def apply(
        self, trials: Sequence[Trial], measured: Mapping[int, Mapping[int, float]], attributes: Mapping[str, Any]
    ) -> None:
        """Applies changes that were stored by another engine of the same study, or by an earlier process.

        Args:
            trials: All trials that have changed, by number.
            measured: New values of the objective by step, for each number of these trials.
            attributes: Stored value of `study_attributes`.
        """
        by_asking = any(key.startswith(_REBUILT) for trial in trials for key in trial.attributes)
        if not by_asking:
            for key, value in attributes.items():
                self._storage.set_study_system_attr(self._study._study_id, key, value)
        num_known = self.num_trials
        for trial in trials:
            if trial.number <= num_known:
                self._storage.measure(trial.number - 1, measured.get(trial.number, {}))
                self._restore_attributes(trial)
        starts = [(trial.start_sequence, trial, False) for trial in trials if trial.number > num_known]
        ends = [(trial.end_sequence, trial, True) for trial in trials if trial.state.ended]
        for _, trial, is_end in sorted(starts + ends, key=lambda event: event[0]):
            if is_end:
                self._restore_end(trial)
            else:
                self._restore_start(trial, measured.get(trial.number, {}), by_asking=by_asking)

    def _restore_start(self, trial: Trial, measured: Mapping[int, float], *, by_asking: bool) -> None:
        number = trial.number - 1
        if not by_asking:
            self._add(trial.parameters, trial.attributes, measured)
            return
        point, _ = self.suggest()
        if dict(point) != dict(trial.parameters):  # e.g. another version of a library
            self._storage.discard_last(number)
            self._add(trial.parameters, {})
        self._storage.measure(number, measured)
        self._restore_attributes(trial)

    def _restore_attributes(self, trial: Trial) -> None:
        known = self._storage.get_trial(trial.number - 1).system_attrs
        for key, value in trial.attributes.items():
            if known.get(key) != value:
                self._storage.set_trial_system_attr(trial.number - 1, key, value)

    def _restore_end(self, trial: Trial) -> None:
        values: list[float] = []
        if trial.state == TrialState.SUCCEEDED:
            values = [trial.metrics[objective.metric] for objective in self._spec.objectives]
        self._set_end(trial.number - 1, trial.state, values)
        self._num_ended += 1

    def _set_end(self, number: int, state: TrialState, values: Sequence[float]) -> None:
        """Ends a trial, like `tell`. A trial that was stopped early has the value of its last measurement."""
        if state == TrialState.STOPPED:
            trial = self._storage.get_trial(number)
            value = None if trial.last_step is None else trial.intermediate_values[trial.last_step]
            values = [value] if value is not None and value == value else []
        self._storage.set_trial_state_values(number, _STATES[state], list(values) or None)

    def _ask(self, number: int, attempt: int) -> dict[str, Value]:
        """Starts a trial, and returns its parameters. If that fails, there is no trial."""
        try:
            with _reported("ALGORITHM_FAILED", "algorithm"):
                self._study.sampler = self._build_sampler(number, attempt)
                if self._reused is not None and not self._has_single:
                    drawn = self._reused.draw(self._study, number, self._distributions)
                    if drawn is not None:
                        point = {name: drawn[name] for name in self._distributions}
                        self._add(point, {})
                        return point
                trial = self._study.ask()
                point = {}
                for parameter in self._spec.space.parameters:
                    if parameter.is_active(point):
                        point[parameter.name] = _suggest(trial, parameter.name, parameter.domain)
                self._refuse_repetition(number, point)
        except MeshError:
            if self.num_trials > number:
                self._storage.discard_last(number)
            raise
        return point

    def _refuse_repetition(self, number: int, point: Point) -> None:
        """Refuses a point that has been tried, if the algorithm is meant to try each point once."""
        if not isinstance(self._study.sampler, optuna.samplers.BruteForceSampler):
            return
        if any(other.params == point for other in self._trials() if other.number != number):
            message = "every combination of values has been suggested; there is nothing left to try"
            raise FailedPrecondition("SPACE_EXHAUSTED", message)

    def _add(self, point: Point, attributes: Mapping[str, Any], measured: Mapping[int, float] | None = None) -> None:
        """Starts a trial with given parameters."""
        distributions = {name: one for name, one in self._distributions.items() if name in point}
        self._storage.add(self._study._study_id, point, distributions, attributes, measured or {})

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return self._storage.get_all_trials(self._study._study_id, deepcopy=False)

    def _seed(self, number: int, attempt: int) -> int:
        text = f"{self._spec.seed}/{number}/{attempt}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def _build_sampler(self, number: int, attempt: int) -> optuna.samplers.BaseSampler:
        seed = self._seed(number, attempt)
        if self._reused is not None:
            self._reused.reseed(seed)
            return self._reused
        component = self._spec.algorithm
        sampler: optuna.samplers.BaseSampler = ALGORITHMS.build(
            component.name, component.params, field="spec.algorithm", context=self._context(seed)
        )
        if component.name == "tpe" and not self._spec.space.is_conditional:
            # It only remembers what never changes, so that a suggestion takes little longer with every trial. In a
            # conditional space, what Optuna remembers depends on the order in which trials ended.
            assert isinstance(sampler, TPESampler)
            self._reused = sampler
        return sampler

    def _build_pruner(self) -> optuna.pruners.BasePruner:
        component = self._spec.pruner
        context = self._context(self._seed(0, 0))
        pruner: optuna.pruners.BasePruner = PRUNERS.build(
            component.name, component.params, field="spec.pruner", context=context
        )
        return pruner

    def _context(self, seed: int) -> Context:
        return Context(self._spec.space, len(self._spec.objectives), seed, self._spec.seed, self._num_ended)


class _Study(optuna.Study):
    """A study whose samplers cannot stop it: outside of Optuna's own loop, Optuna raises an exception instead."""

    def __init__(
        self,
        name: str,
        spec: StudySpec,
        storage: RevocableStorage,
        pruner: optuna.pruners.BasePruner,
        sampler: optuna.samplers.BaseSampler,
    ) -> None:
        directions = [
            optuna.study.StudyDirection.MAXIMIZE if objective.maximize else optuna.study.StudyDirection.MINIMIZE
            for objective in spec.objectives
        ]
        storage.create_new_study(directions, name)
        super().__init__(name, storage, sampler, pruner)

    def stop(self) -> None:
        """Does nothing; the next suggestion fails instead."""


def _suggest(trial: optuna.Trial, name: str, domain: Domain) -> Value:
    if isinstance(domain, Choices):
        return cast(Value, trial.suggest_categorical(name, domain.choices))
    if isinstance(domain, FloatRange):
        return trial.suggest_float(name, domain.low, domain.greatest, step=domain.step or None, log=domain.log)
    return trial.suggest_int(name, domain.low, domain.greatest, step=domain.step or 1, log=domain.log)


def distribution(domain: Domain) -> optuna.distributions.BaseDistribution:
    """Returns a range, or choices, as Optuna has them."""
    if isinstance(domain, Choices):
        return optuna.distributions.CategoricalDistribution(domain.choices)
    if isinstance(domain, FloatRange):
        return optuna.distributions.FloatDistribution(domain.low, domain.greatest, domain.log, domain.step or None)
    return optuna.distributions.IntDistribution(domain.low, domain.greatest, domain.log, domain.step or 1)


def ignore_warnings() -> None:
    """Ignores warnings of Optuna and its libraries, on which users cannot act; for good, because a filter that is
    removed again would affect the other threads of the process.
    """
    warnings.filterwarnings("ignore", module=r"(optuna|cmaes|scipy|deepseek\.search)\b")
    if optuna.logging.get_verbosity() == optuna.logging.INFO:
        optuna.logging.set_verbosity(optuna.logging.WARNING)


@contextmanager
def _reported(reason: str, what: str) -> Iterator[None]:
    """Converts the errors of an algorithm or pruner, which may come from any package.

    Raises:
        FailedPrecondition: `reason`.
    """
    try:
        yield
    except MeshError:
        raise
    except Exception as error:  # it may raise anything
        message = f"the {what} of the study failed: {type(error).__name__}: {error}"
        raise FailedPrecondition(reason, message) from error
