"""Epsilon of a composition of releases, and the two inverse questions: how much noise, and how many releases.

All results are conservative: epsilon is an upper bound, and noise is rounded up. Releases at a rate of 1 are composed
exactly into one (Dong et al. 2022, corollary 3.3: the squares of sensitivity / noise add up).
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

from common.errors import InvalidArgument
from deepseek.privacy.releases import (
    MAX_COUNT,
    MAX_EPSILON,
    Release,
    check_count,
    check_delta,
    check_epsilon,
    check_rate,
)

Composition = tuple[tuple[float, float, int], ...]
"""Equal releases (noise multiplier, sampling rate, count), each kind once, in ascending order."""

_MIN_NOISE, _MAX_NOISE = 0.05, 1e6
_MIN_RATE, _MAX_RATE = 1e-9, 1 - 1e-6


def epsilon(releases: Sequence[Release], delta: float) -> float:
    """Returns an upper bound on the epsilon of all releases together, for add/remove adjacency.

    The order of the releases does not matter, and equal releases may be given in several parts. Results are cached, so
    calling this function after each further release is cheap.

    Args:
        releases: Releases from one population, which may depend on the results of earlier ones.
        delta: Probability that the bound does not hold, in [1e-10, 1).

    Returns:
        0 for no releases. Infinity if the noise multiplier of a release is below 0.05, or if the bound is above 500:
        such releases protect nothing.

    Raises:
        InvalidArgument: BAD_DELTA.

    >>> round(epsilon([Release(noise_multiplier=1.0, sampling_rate=0.01, count=1000)], 1e-5), 3)
    1.828
    """
    return _epsilon(_composition(releases), check_delta(delta))


def noise_multiplier_for(epsilon: float, delta: float, sampling_rate: float, count: int) -> float:
    """Returns the smallest noise multiplier, rounded up to four digits, with which releases stay within epsilon.

    Raises:
        InvalidArgument: BAD_EPSILON, BAD_DELTA, BAD_RATE or BAD_COUNT. BAD_EPSILON also if no noise multiplier up to
            10^6 is enough.

    >>> noise_multiplier_for(epsilon=3.0, delta=1e-6, sampling_rate=1.0, count=1)
    1.544
    """
    target, delta = check_epsilon(epsilon), check_delta(delta)
    rate, count = check_rate(sampling_rate, "sampling_rate"), check_count(count, "count")

    def used(noise: float) -> float:
        return _epsilon(_composition([Release(noise, rate, count)]), delta)

    return _smallest_noise(used, target)


def max_releases(budget_epsilon: float, delta: float, spent: Sequence[Release], release: Release) -> int:
    """Returns how many times a release still fits into a budget.

    Args:
        budget_epsilon: Epsilon that must not be exceeded.
        delta: Delta of the budget.
        spent: Releases that were made already.
        release: Further release; if its count is above 1, that many releases are made at a time.

    Returns:
        The largest number n for which `epsilon([*spent, *[release] * n], delta) <= budget_epsilon`, at most
        `MAX_COUNT // release.count`; 0 if the budget is used up.

    Raises:
        InvalidArgument: BAD_EPSILON or BAD_DELTA.
    """
    budget, delta = check_epsilon(budget_epsilon, "budget_epsilon"), check_delta(delta)

    def used(times: int) -> float:
        further = [Release(release.noise_multiplier, release.sampling_rate, release.count * times)] if times else []
        return _epsilon(_composition([*spent, *further]), delta)

    return _largest_within(used, budget, MAX_COUNT // release.count)


def _composition(releases: Sequence[Release]) -> Composition:
    """Returns a canonical form of the releases, so that equal compositions have equal epsilons.

    Extreme parameters, for which dp-accounting overflows, are replaced by less private ones."""
    counts: Counter[tuple[float, float]] = Counter()
    for release in releases:
        noise = min(release.noise_multiplier, _MAX_NOISE) if release.noise_multiplier >= _MIN_NOISE else 0.0
        rate = max(release.sampling_rate, _MIN_RATE) if release.sampling_rate <= _MAX_RATE else 1.0
        counts[noise, rate] += release.count
    return tuple(sorted((noise, rate, count) for (noise, rate), count in counts.items()))


@lru_cache(maxsize=4096)
def _epsilon(composition: Composition, delta: float) -> float:
    if not composition:
        return 0.0
    if any(noise == 0 for noise, _, _ in composition):
        return math.inf
    # Imported here, because modules that only describe releases do not need SciPy.
    from deepseek.privacy.loss_distributions import epsilon_at

    sampled = [kind for kind in composition if kind[1] < 1]
    precision = math.fsum(count / noise**2 for noise, rate, count in composition if rate == 1)
    bound = epsilon_at([*sampled, *([(precision**-0.5, 1.0, 1)] if precision else [])], delta)
    return bound if bound <= MAX_EPSILON else math.inf


def _largest_within(used: Callable[[int], float], budget: float, limit: int) -> int:
    """Returns the largest number from 0 to `limit` for which `used`, a growing function, is at most `budget`.

    Regula falsi on a doubly logarithmic scale, on which epsilon is nearly a straight line, with the Illinois rule: if
    one end of the bracket does not move, its weight is halved."""
    if used(0) > budget or (value := used(1)) > budget:
        return 0
    low, low_gap = 1, _log_ratio(value, budget)
    high, high_gap = 0, math.inf  # no upper end yet
    moved = 0
    while low < limit and low + 1 != high:
        if high:
            guess = math.floor(low * (high / low) ** (low_gap / (low_gap - high_gap)))
        else:
            guess = math.ceil(low * math.exp(min(-2 * low_gap, 10)))  # epsilon grows at least with the square root
        guess = min(max(guess, low + 1), high - 1 if high else limit)
        gap = _log_ratio(used(guess), budget)
        if gap <= 0:
            low, low_gap, high_gap = guess, gap, high_gap / (2 if moved < 0 else 1)
        else:
            high, high_gap, low_gap = guess, gap, low_gap / (2 if moved > 0 else 1)
        moved = -1 if gap <= 0 else 1
    return min(low, limit)


def _smallest_noise(used: Callable[[float], float], target: float) -> float:
    """Returns the smallest noise multiplier, of four digits, for which `used`, a falling function, is within target."""
    from scipy.optimize import brentq

    low = high = 1.0
    while used(high) > target:
        if (high := high * 4) > _MAX_NOISE:
            message = (
                f"no noise multiplier up to {_MAX_NOISE:g} keeps epsilon at {target:g}; allow more, or release less"
            )
            raise InvalidArgument("BAD_EPSILON", message, field="epsilon")
    while used(low) <= target:
        if (low := low / 4) < _MIN_NOISE:
            return _MIN_NOISE
    log_noise = brentq(lambda x: _log_ratio(used(math.exp(x)), target), math.log(low), math.log(high), xtol=1e-4)
    unit = 10.0 ** (math.floor(log_noise / math.log(10)) - 3)
    steps = math.floor(math.exp(log_noise) / unit) - 1
    while used(noise := float(f"{steps * unit:.4g}")) > target:
        steps += 1
    return noise


def _log_ratio(value: float, budget: float) -> float:
    """Returns the logarithm of value / budget, limited to finite numbers."""
    return min(math.log(max(value / budget, 1e-12)), 30.0)
