"""Privacy loss distributions (PLD) of compositions, computed by dp-accounting.

Losses are rounded to a grid by "Connect the Dots" (Doroshenko et al. 2022, arXiv:2207.04380), which never understates
them. Its error depends on the ratio of the grid to the spread of one release's loss, so the grid follows that spread: a
fixed grid would overstate a small epsilon many times, and would make a large one slow. Memory is bounded, because
callers choose the compositions. Import this module only where epsilon is computed: it loads SciPy.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce

import numpy as np
from dp_accounting.pld.common import compute_self_convolve_bounds  # type: ignore[import-untyped]
from dp_accounting.pld.pld_pmf import DensePLDPmf  # type: ignore[import-untyped]
from dp_accounting.pld.privacy_loss_distribution import (  # type: ignore[import-untyped]
    PrivacyLossDistribution,
    from_gaussian_mechanism,
)
from scipy.fft import irfft, next_fast_len, rfft

from common import deadline
from common.errors import DeadlineExceeded, Unavailable

Kind = tuple[float, float, int]
"""Equal releases: noise multiplier, sampling rate and count."""

POINTS_PER_SPREAD = 64
MAX_POINTS = 2**17
MAX_COMPOSED_POINTS = 2**20
MAX_REPEATED_POINTS = 2**22
"""Largest number of points of equal releases: `grid_of` underestimates it for losses with a long tail."""
MAX_GRID = 64.0
ROUNDING, ROUNDING_PER_RELEASE = 1e-12, 2.0**-53
"""Parts of delta that are reserved for rounding errors of the Fourier transforms.

The transform of one release is raised to the power of the count, whose relative error grows with the count.
"""
MAX_CACHED_POINTS = 2**22
"""Points of 8 bytes that each of the two caches holds at most."""

_MAX_CONCURRENT = 2
_SLOT_S = 60.0
_TRUNCATED = 1e-15
"""Probability that a composition moves from its tails to an infinite loss."""

_TAIL = 10.0
"""Standard deviations of the noise that dp-accounting represents: it cuts off a probability of exp(-50)."""


def epsilon_at(kinds: Sequence[Kind], delta: float) -> float:
    """Returns an upper bound on the epsilon of a composition; infinity if there is none.

    There is none if the composition protects nothing, or if it has so many releases that rounding errors may exceed
    delta: more than 900,000 at a delta of 1e-10.

    Args:
        kinds: Composition with at least one release; each kind once, in a fixed order.
        delta: At least 1e-10.

    Raises:
        DeadlineExceeded: DEADLINE_EXCEEDED. The deadline of the current call (`common.deadline`) has passed.
        Unavailable: ACCOUNTING_BUSY. Other computations have taken too long.
    """
    left = delta - max(ROUNDING, ROUNDING_PER_RELEASE * sum(count for _, _, count in kinds))
    if left <= 0:
        return math.inf
    grid = grid_of(kinds)
    with _slot():
        while grid <= MAX_GRID:
            try:
                # One after the other, so that memory does not depend on the number of kinds.
                composed = reduce(PrivacyLossDistribution.compose, _parts(kinds, grid))
            except _TooManyPoints:  # a long tail, e.g. of a very small sampling rate
                grid *= 2
                continue
            with np.errstate(over="ignore"):  # an epsilon of several hundred; the result is then infinity
                return float(composed.get_epsilon_for_delta(left))
    return math.inf


def _parts(kinds: Sequence[Kind], grid: float) -> Iterator[PrivacyLossDistribution]:
    """Yields the distribution of each kind."""
    for noise, rate, count in kinds:
        if deadline.within(None) == 0:
            message = "the deadline passed while a privacy loss was computed; allow more time"
            raise DeadlineExceeded("DEADLINE_EXCEEDED", message)
        yield _repeated(noise, rate, count, grid)


@contextmanager
def _slot() -> Iterator[None]:
    """Waits for one of the slots, of which each may use much memory."""
    if not _slots.acquire(timeout=deadline.within(_SLOT_S)):
        message = "other privacy losses are being computed; try again"
        raise Unavailable("ACCOUNTING_BUSY", message, retry_delay_s=1)
    try:
        yield
    finally:
        _slots.release()


def grid_of(kinds: Sequence[Kind]) -> float:
    """Returns the distance between grid points, a power of 2, for a composition.

    It is at most 1/64 of the spread of one release's loss; different releases count by their mean square. Compositions
    that would need more than `MAX_COMPOSED_POINTS` points get a coarser grid, on which the bound is still valid.
    """
    num_releases = sum(count for _, _, count in kinds)
    variance = math.fsum(count * _spread(noise, rate) ** 2 for noise, rate, count in kinds)
    longest = max(_range(noise, rate) for noise, rate, _ in kinds)
    # Both tails of the composition, and the distance between the means of the loss for an added and a removed member.
    composed = 2 * _TAIL * math.sqrt(variance) + variance
    finest = max(longest / MAX_POINTS, composed / MAX_COMPOSED_POINTS)
    return _power_of_two(max(math.sqrt(variance / num_releases) / POINTS_PER_SPREAD, finest))


def _spread(noise: float, rate: float) -> float:
    """Returns approximately the standard deviation of one release's loss: the root of the chi-square divergence.

    For small noise, the divergence becomes very large, and the standard deviation of the unsampled loss is used, which
    is larger than that of the sampled loss."""
    unsampled = 1 / noise
    return min(unsampled, rate * math.sqrt(math.expm1(unsampled**2))) if rate < 1 and unsampled < 20 else unsampled


def _range(noise: float, rate: float) -> float:
    """Returns approximately the difference between the largest and the smallest loss of one release."""
    largest = (_TAIL + 0.5 / noise) / noise
    if rate == 1:
        return 2 * _TAIL / noise
    sampled = math.log1p(rate * math.expm1(largest)) if largest < 700 else largest + math.log(rate)
    return sampled - math.log1p(-rate)


def _power_of_two(value: float) -> float:
    return math.ldexp(1.0, math.floor(math.log2(value)))


class _TooManyPoints(Exception):
    """A composition would need more than `MAX_REPEATED_POINTS` points. Nothing has been allocated for it."""


class Cache:
    """The distributions that were used last, as long as they have at most a number of points together. Thread-safe.

    Attributes:
        num_points: Number of points of all distributions in the cache.
        num_misses: Number of distributions that were computed.
    """

    def __init__(self, max_points: int) -> None:
        self._max_points = max_points
        self._lock = threading.Lock()
        self._found: OrderedDict[Hashable, PrivacyLossDistribution] = OrderedDict()
        self.num_points = self.num_misses = 0

    def get(self, key: Hashable, compute: Callable[[], PrivacyLossDistribution]) -> PrivacyLossDistribution:
        """Returns a distribution, and computes it if it is not in the cache."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        found = compute()
        with self._lock:
            self.num_misses += 1
            if key not in self._found and num_points(found) <= self._max_points:
                self._found[key] = found
                self.num_points += num_points(found)
            while self.num_points > self._max_points:
                self.num_points -= num_points(self._found.popitem(last=False)[1])
        return found


def num_points(distribution: PrivacyLossDistribution) -> int:
    """Returns the number of points that a distribution stores, for an added and for a removed member."""
    return sum(pmf.size for pmf in {id(pmf): pmf for pmf in _pmfs(distribution)}.values())


def _pmfs(distribution: PrivacyLossDistribution) -> tuple[DensePLDPmf, DensePLDPmf]:
    return distribution._pmf_remove, distribution._pmf_add


_singles, _repetitions = Cache(MAX_CACHED_POINTS), Cache(MAX_CACHED_POINTS)
_slots = threading.BoundedSemaphore(_MAX_CONCURRENT)


def _single(noise: float, rate: float, grid: float) -> PrivacyLossDistribution:
    def compute() -> PrivacyLossDistribution:
        found = from_gaussian_mechanism(noise, sampling_prob=rate, value_discretization_interval=grid)
        # The mixture of a distribution with itself is the same distribution in dense form, which `_composed` needs.
        return found.compute_mixture(found, 0.5)

    return _singles.get((noise, rate, grid), compute)


def _repeated(noise: float, rate: float, count: int, grid: float) -> PrivacyLossDistribution:
    def compute() -> PrivacyLossDistribution:
        remove, add = _pmfs(_single(noise, rate, grid))
        composed = _composed(remove, count)
        return PrivacyLossDistribution(composed, None if add is remove else _composed(add, count))

    return _repetitions.get((noise, rate, count, grid), compute)


def _composed(pmf: DensePLDPmf, count: int) -> DensePLDPmf:
    """Returns the distribution of the sum of `count` independent losses.

    Does what `DensePLDPmf.self_compose` does. That method finds the tails with Chernoff bounds of fixed orders, which
    leave several times as many points as are needed if the count is large; these orders fit the result.
    """
    probs = pmf._probs
    lower, upper = compute_self_convolve_bounds(probs, count, _TRUNCATED, _orders(probs, count))
    if (length := upper - lower + 1) > MAX_REPEATED_POINTS:
        raise _TooManyPoints
    size = next_fast_len(max(length, pmf.size), real=True)
    spectrum = rfft(probs, size)
    # The probabilities of one release add up to slightly more than 1, which overflows if the count is extreme.
    with np.errstate(over="ignore", invalid="ignore"):
        spectrum **= count
        if not np.isfinite(spectrum).all():
            return DensePLDPmf(pmf._discretization, 0, np.zeros(1), 1.0, True)  # every loss may be infinite
        # The transform is cyclic, so the part from `lower` on has to be moved to the start.
        composed = np.roll(irfft(spectrum, size, overwrite_x=True), -lower)[:length].copy()
    # The losses that are infinite, without cancellation, and those that were cut off.
    infinite = _TRUNCATED - math.expm1(count * math.log1p(-pmf._infinity_mass))
    return DensePLDPmf(pmf._discretization, pmf._lower_loss * count + lower, composed, infinite, True)


def _orders(probs: np.ndarray, count: int) -> np.ndarray:
    """Returns the orders of the Chernoff bounds on a sum of losses, per grid point. Bounds of all orders are valid.

    The best order for a sum with a normal distribution is sqrt(2 log(2 / truncated)) / its standard deviation. Sums of
    few losses with a long tail need lower ones; those of the lengths of the tail are from dp-accounting.
    """
    points = np.arange(len(probs))
    mean = np.average(points, weights=probs)
    deviation = math.sqrt(count * np.average((points - mean) ** 2, weights=probs))
    normal = math.sqrt(2 * math.log(2 / _TRUNCATED)) / max(deviation, 1e-3)
    positive = np.concatenate((normal * np.geomspace(1 / 16, 2, 11), np.array([1, 4, 20]) / len(probs)))
    return np.concatenate((-positive, positive))
