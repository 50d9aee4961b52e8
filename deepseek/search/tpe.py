"""Optuna's TPE, without the work that it repeats for every suggestion.

The suggestions are Optuna's own for the same seed, up to rounding. Optuna evaluates the normal distribution one number
at a time in Python, and converts and ranks all trials again for every suggestion; this sampler evaluates arrays and
remembers trials that have ended. It relies on private parts of Optuna 5; a test compares both samplers.
"""

import math
from bisect import insort
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.samplers._tpe.probability_distributions import (
    _BatchedCategoricalDistributions,
    _MixtureOfProductDistribution,
)
from optuna.samplers._tpe.sampler import _get_infeasible_trial_score, _get_pruned_trial_score, default_gamma
from optuna.trial import FrozenTrial, TrialState
from scipy.special import log_ndtr, ndtr, ndtri

from deepseek.search.space import Value

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_FAR = -20.0
"""Below it, masses are computed from their logarithms, because differences of the masses would be too small."""


class TPESampler(optuna.samplers.TPESampler):
    """A tree-structured Parzen estimator (Bergstra et al. 2011; Watanabe 2023, arXiv:2304.11127).

    An object may make all suggestions of a study whose space has no conditions, if it gets a seed for each.

    Args:
        **options: As for Optuna's sampler.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._parzen_estimator_cls = _Estimator
        self._ranking = _Ranking()

    def reseed(self, seed: int) -> None:
        """Sets the seed of the next suggestion."""
        for source in (self._rng, self._random_sampler._rng):
            source.rng.seed(seed)

    def draw(
        self, study: optuna.Study, number: int, distributions: Mapping[str, BaseDistribution]
    ) -> dict[str, Value] | None:
        """Suggests a whole point at once.

        Args:
            study: The study, which has one objective and trials that all have the same parameters.
            number: Number of the next trial, starting at 0; the study does not have this trial yet.
            distributions: Distributions of all parameters, none of which has only one value.

        Returns:
            The point; None if Optuna would draw its parameters one by one, e.g. because there are too few trials.
        """
        if len(study.directions) > 1 or not self._is_multivariate(study) or not self._constant_liar:
            return None
        names = sorted(distributions)
        space = {name: distributions[name] for name in names}
        self._ranking.update(study._storage.get_all_trials(study._study_id, deepcopy=False), study, space)
        num_ended = self._ranking.num_ended
        if num_ended < max(1, self._n_startup_trials):
            return None
        below, above = self._ranking.split((self._gamma or default_gamma)(num_ended))
        good, bad = (
            _Estimator(dict(zip(names, rows.T, strict=True)), space, self._parzen_estimator_parameters)
            for rows in (below, above)
        )
        points = good.sample(self._rng.rng, self._n_ei_candidates)
        mixtures = [one._mixture_distribution for one in (good, bad)]
        good_density, bad_density = _log_densities(points, mixtures)
        best = self._compare(points, good_density - bad_density)
        return {name: space[name].to_external_repr(best[name]) for name in names}


class _Ranking:
    """The trials of a study, from the best to the worst, in the order in which TPE prefers them.

    A trial that has ended never changes, and is therefore looked at only once.
    """

    def __init__(self) -> None:
        self._points: dict[int, tuple[float, ...]] = {}
        self._known: set[int] = set()
        # Trials that have succeeded, were stopped early, or violate a constraint: what they are ordered by, and number.
        self._groups: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        self._running: list[int] = []

    @property
    def num_ended(self) -> int:
        """Number of trials that have ended with a value, or early."""
        return sum(map(len, self._groups))

    def update(
        self, trials: list[FrozenTrial], study: optuna.Study, search_space: Mapping[str, BaseDistribution]
    ) -> None:
        """Takes note of the trials that have started or ended."""
        self._running = []
        for trial in trials:
            if trial.number in self._known:
                continue
            if trial.number not in self._points:
                values = [one.to_internal_repr(trial.params[name]) for name, one in search_space.items()]
                self._points[trial.number] = tuple(values)
            if not trial.state.is_finished():
                self._running.append(trial.number)
                continue
            self._known.add(trial.number)
            if (excess := _get_infeasible_trial_score(trial)) > 0 and trial.state != TrialState.FAIL:
                insort(self._groups[2], (excess, trial.number))
            elif trial.state == TrialState.COMPLETE:
                loss = trial.value if study.direction == optuna.study.StudyDirection.MINIMIZE else -(trial.value or 0)
                insort(self._groups[0], (loss, trial.number))
            elif trial.state == TrialState.PRUNED:
                insort(self._groups[1], (_get_pruned_trial_score(trial, study), trial.number))

    def split(self, num_below: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the points of the best trials and of all others, by number of the trial."""
        numbers = [number for group in self._groups for _, number in group]
        parts = sorted(numbers[:num_below]), sorted(numbers[num_below:] + self._running)
        width = len(next(iter(self._points.values())))
        below, above = (np.array([self._points[number] for number in part], float).reshape(-1, width) for part in parts)
        return below, above


class _Estimator(_ParzenEstimator):
    """A mixture of kernels, one for each observed point and one for the whole space."""

    def sample(self, rng: np.random.RandomState, size: int) -> dict[str, np.ndarray]:
        """Draws points; uses random numbers in the same order as Optuna."""
        mixture = self._mixture_distribution
        kernels = rng.choice(len(mixture.weights), p=mixture.weights, size=size)
        points = np.empty((size, len(mixture.distributions)))
        numeric = []
        for index, one in enumerate(mixture.distributions):
            if isinstance(one, _BatchedCategoricalDistributions):
                cumulated = np.cumsum(one.weights[kernels], axis=-1)
                cumulated[:, -1] = 1
                points[:, index] = np.sum(cumulated < rng.rand(size)[:, np.newaxis], axis=-1)
            else:
                numeric.append((index, one))
        quantiles = rng.uniform(size=(len(numeric), size))
        for (index, one), shares in zip(numeric, quantiles, strict=True):
            mu, sigma = one.mu[kernels], one.sigma[kernels]
            left, right = ndtr((one.adapted_low - mu) / sigma), ndtr((one.adapted_high - mu) / sigma)
            within = np.clip(left + shares * (right - left), 1e-300, 1 - 1e-16)
            drawn = mu + sigma * ndtri(within)
            if one.is_log:
                drawn = np.exp(drawn)
            if one.step:
                drawn = one.low + np.round((drawn - one.low) / one.step) * one.step
            points[:, index] = np.clip(drawn, one.low, one.high)
        return self._untransform(points)

    def log_pdf(self, samples_dict: dict[str, np.ndarray]) -> np.ndarray:
        """Returns the logarithm of the density at points."""
        return _log_densities(samples_dict, [self._mixture_distribution])[0]


def _log_densities(
    points: Mapping[str, np.ndarray], mixtures: Sequence[_MixtureOfProductDistribution]
) -> list[np.ndarray]:
    """Returns the logarithm of the density of each mixture at points.

    The kernels of all mixtures are evaluated together, because arrays of this size take little longer than short ones.
    """
    total = np.log(np.concatenate([mixture.weights for mixture in mixtures]))[np.newaxis]
    for values, parts in zip(points.values(), zip(*(one.distributions for one in mixtures), strict=True), strict=True):
        one: Any = parts[0]
        if isinstance(one, _BatchedCategoricalDistributions):
            weights = np.concatenate([cast(Any, part).weights for part in parts])
            total = total + np.log(weights[:, values.astype(int)]).T
            continue
        mu, sigma = (np.concatenate([getattr(part, name) for part in parts]) for name in ("mu", "sigma"))
        low, high = np.array([one.adapted_low]), np.array([one.adapted_high])
        if one.step:
            unique, inverse = np.unique(values, return_inverse=True)
            ends = unique - one.step / 2, unique + one.step / 2
            left, right = (np.log(end) if one.is_log else end for end in ends)
            low, high = np.append(left, low), np.append(right, high)
        mass = _log_mass((low[:, np.newaxis] - mu) / sigma, (high[:, np.newaxis] - mu) / sigma)
        if one.step:
            density = mass[inverse]
        else:
            position = np.log(values) if one.is_log else values
            distance = (position[:, np.newaxis] - mu) / sigma
            density = -(distance**2) / 2 - (_LOG_SQRT_2PI + np.log(sigma))
        total = total + (density - mass[-1])
    found: list[np.ndarray] = []
    start = 0
    for mixture in mixtures:
        own = total[:, start : (start := start + len(mixture.weights))]
        greatest = own.max(axis=1)
        greatest[np.isneginf(greatest)] = 0
        with np.errstate(divide="ignore"):
            found.append(np.log(np.exp(own - greatest[:, np.newaxis]).sum(axis=1)) + greatest)
    return found


def _log_mass(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Returns the logarithm of the standard normal mass between two numbers."""
    # By symmetry, only the left tail is needed, which floating-point numbers resolve better.
    is_right = low > 0
    left, right = np.where(is_right, -high, low), np.where(is_right, -low, high)
    left_tail, right_tail = ndtr(left), ndtr(-np.abs(right))
    with np.errstate(divide="ignore", invalid="ignore"):
        mass: np.ndarray = np.log(np.where(right > 0, 1 - left_tail - right_tail, right_tail - left_tail))
    far = right < _FAR
    if far.any():
        upper, lower = log_ndtr(right[far]), log_ndtr(left[far])
        mass[far] = upper + np.log1p(-np.exp(lower - upper))
    return mass
