"""Statistical tests and intervals for the counts of benchmarks."""

import math
from collections.abc import Sequence

import numpy as np

from deepseek.watermark.tail_bounds import log_binomial_tail, log_erlang_tail


def lower_bound(num_hits: int, num_cases: int, level: float = 0.05) -> float:
    """Returns the one-sided Clopper-Pearson lower bound on the probability of a hit.

    The bound is too high with a probability of at most `level`.

    >>> round(lower_bound(427, 427), 4)
    0.993
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        is_too_low = log_binomial_tail(num_cases, num_hits, math.log(middle)) < math.log(level)
        low, high = (middle, high) if is_too_low else (low, middle)
    return low


def upper_bound(num_hits: int, num_cases: int, level: float = 0.05) -> float:
    """Returns the one-sided Clopper-Pearson upper bound on the probability of a hit; see `lower_bound`."""
    return 1 - lower_bound(num_cases - num_hits, num_cases, level)


def interval(num_hits: int, num_cases: int) -> list[float]:
    """Returns the two-sided 95 % Clopper-Pearson interval for the probability of a hit."""
    return [lower_bound(num_hits, num_cases, 0.025), upper_bound(num_hits, num_cases, 0.025)]


def is_below(ours: Sequence[bool], theirs: Sequence[bool]) -> bool:
    """Returns whether `ours` has significantly fewer hits than `theirs` for the same cases (McNemar's exact test)."""
    only_theirs = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    discordant = only_theirs + sum(a and not b for a, b in zip(ours, theirs, strict=True))
    tail = sum(math.comb(discordant, k) for k in range(only_theirs, discordant + 1)) / 2**discordant
    return bool(discordant) and tail <= 0.05


def uniformity(p: Sequence[float]) -> float:
    """Returns the approximate p-value of a Kolmogorov-Smirnov test for uniformity on [0, 1] (Stephens 1970).

    >>> round(uniformity([(i + 0.5) / 100 for i in range(100)]), 6)
    1.0
    """
    count, ranks = len(p), np.arange(len(p))
    ordered = np.sort(p)
    distance = float(max((ordered - ranks / count).max(), ((ranks + 1) / count - ordered).max()))
    scaled = (math.sqrt(count) + 0.12 + 0.11 / math.sqrt(count)) * distance
    if scaled < 0.2:  # here the sum is 1, but the series converges slowly
        return 1.0
    return min(1.0, 2 * sum(math.copysign(math.exp(-2 * (k * scaled) ** 2), k % 2 - 0.5) for k in range(1, 101)))


def source_interval(sources: Sequence[str], hits: Sequence[bool]) -> list[float]:
    """Returns a 95 % confidence interval for the share of hits, by a bootstrap over the sources of the cases."""
    names = sorted(set(sources))
    where = np.array([names.index(source) for source in sources])
    num_cases = np.bincount(where, minlength=len(names))
    num_hits = np.bincount(where, np.asarray(hits, float), minlength=len(names))
    drawn = np.random.default_rng(0).integers(len(names), size=(10_000, len(names)))
    shares = num_hits[drawn].sum(1) / num_cases[drawn].sum(1)
    return [float(bound) for bound in np.quantile(shares, [0.025, 0.975])]


def chi_squared_p(statistic: float, freedom: int) -> float:
    """Returns the p-value of a chi-square statistic with an even number of degrees of freedom.

    Half of a chi-square variable with an even number of degrees of freedom has an Erlang distribution.

    >>> round(chi_squared_p(41.3371, 28), 4)
    0.05
    """
    return math.exp(log_erlang_tail(freedom // 2, statistic / 2))


def median_interval(values: Sequence[float]) -> tuple[float, list[float]]:
    """Returns the median of a sample, and its 95 % confidence interval by bootstrap.

    >>> median_interval([0.5, 0.5, 0.5])
    (0.5, [0.5, 0.5])
    """
    draws = np.random.default_rng(0).choice(np.asarray(values), (10_000, len(values)))
    bounds = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(np.median(values)), [float(bound) for bound in bounds]
