"""Tests and intervals of what benchmarks count."""

import math
from collections.abc import Sequence

import numpy as np

from deepseek.watermark.tail import log_binomial_tail, log_erlang_tail


def lower_bound(num_hits: int, num_cases: int, level: float = 0.05) -> float:
    """Clopper and Pearson's lower bound of a probability, one-sided: it is more, but for a probability of `level`.

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
    """The upper bound, as `lower_bound`."""
    return 1 - lower_bound(num_cases - num_hits, num_cases, level)


def interval(num_hits: int, num_cases: int) -> list[float]:
    """The interval of a probability between both bounds, at 95 %."""
    return [lower_bound(num_hits, num_cases, 0.025), upper_bound(num_hits, num_cases, 0.025)]


def is_below(ours: Sequence[bool], theirs: Sequence[bool]) -> bool:
    """Whether ours is found less often than theirs in the same cases (exact McNemar test, one-sided, 95 %)."""
    only_theirs = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    discordant = only_theirs + sum(a and not b for a, b in zip(ours, theirs, strict=True))
    tail = sum(math.comb(discordant, k) for k in range(only_theirs, discordant + 1)) / 2**discordant
    return bool(discordant) and tail <= 0.05


def uniformity(p: Sequence[float]) -> float:
    """p-value of Kolmogorov and Smirnov's test that these are uniform from 0 to 1; by Stephens (1970).

    >>> round(uniformity([(i + 0.5) / 100 for i in range(100)]), 6)
    1.0
    """
    count, ranks = len(p), np.arange(len(p))
    ordered = np.sort(p)
    distance = float(max((ordered - ranks / count).max(), ((ranks + 1) / count - ordered).max()))
    scaled = (math.sqrt(count) + 0.12 + 0.11 / math.sqrt(count)) * distance
    if scaled < 0.2:  # where the series converges slowly, to 1
        return 1.0
    return min(1.0, 2 * sum(math.copysign(math.exp(-2 * (k * scaled) ** 2), k % 2 - 0.5) for k in range(1, 101)))


def source_interval(sources: Sequence[str], hits: Sequence[bool]) -> list[float]:
    """A 95 % interval of the share of hits, by a bootstrap over sources."""
    names = sorted(set(sources))
    where = np.array([names.index(source) for source in sources])
    num_cases = np.bincount(where, minlength=len(names))
    num_hits = np.bincount(where, np.asarray(hits, float), minlength=len(names))
    drawn = np.random.default_rng(0).integers(len(names), size=(10_000, len(names)))
    shares = num_hits[drawn].sum(1) / num_cases[drawn].sum(1)
    return [float(bound) for bound in np.quantile(shares, [0.025, 0.975])]


def chi_squared_p(statistic: float, freedom: int) -> float:
    """p-value of a chi-square statistic with an even number of degrees of freedom: its half has Erlang's distribution.

    >>> round(chi_squared_p(41.3371, 28), 4)
    0.05
    """
    return math.exp(log_erlang_tail(freedom // 2, statistic / 2))
