"""Measures how far the distribution of a field has moved between two versions of a data set."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

_NUM_BINS = 10
_SMOOTHING = 0.5
_NUM_TERMS = 100

LARGE_PSI = 0.2
"""Population stability index above which a shift is usually called large; below 0.1, it is called small."""


def psi(before: Mapping[str, int], after: Mapping[str, int]) -> float:
    """Returns the population stability index of two distributions over categories.

    PSI = sum over categories of (a - b) ln(a / b), where b and a are the shares of the category before and after; N.
    Siddiqi, Credit Risk Scorecards, Wiley 2006. It is the symmetrized Kullback-Leibler divergence. Half an observation
    is added to each count, so that a category that is missing on one side gives a finite value.

    >>> round(psi({"a": 50, "b": 50}, {"a": 80, "b": 20}), 3)
    0.406

    Args:
        before: Number of observations per category before.
        after: Number of observations per category after.
    """
    categories = before.keys() | after.keys()
    if not categories:
        return 0.0
    totals = [sum(counts.values()) + _SMOOTHING * len(categories) for counts in (before, after)]
    total = 0.0
    for category in categories:
        b, a = (
            (counts.get(category, 0) + _SMOOTHING) / size for counts, size in zip((before, after), totals, strict=True)
        )
        total += (a - b) * math.log(a / b)
    return total


def psi_of_numbers(before: Sequence[float], after: Sequence[float]) -> float:
    """Returns the population stability index of numbers, in ten bins that hold equal shares of `before`.

    Values that equal an edge, such as a value that occurs very often, have a bin of their own.

    >>> psi_of_numbers([1, 2, 3, 4], [1, 2, 3, 4])
    0.0
    """
    edges = np.unique(np.quantile(np.asarray(before, float), np.linspace(0, 1, _NUM_BINS + 1)[1:-1]))
    counts = [Counter(map(str, _bins(edges, np.asarray(values, float)))) for values in (before, after)]
    return psi(*counts)


def _bins(edges: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> list[int]:
    return list(np.searchsorted(edges, values, "left") + np.searchsorted(edges, values, "right"))


def ks(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Returns the statistic and the p-value of the two-sample Kolmogorov-Smirnov test.

    D is the largest distance between the two empirical distribution functions. The p-value is the asymptotic one with
    Stephens' correction: Q((sqrt(n) + 0.12 + 0.11 / sqrt(n)) D) with n = n1 n2 / (n1 + n2) and Q(x) = 2 sum over j >= 1
    of (-1)^(j-1) exp(-2 j^2 x^2); Press et al., Numerical Recipes, 3rd edition, section 14.3.

    >>> d, p = ks([1, 2, 3, 4], [3, 4, 5, 6])
    >>> round(d, 2), round(p, 2)
    (0.5, 0.53)
    """
    first, second = np.sort(np.asarray(before, float)), np.sort(np.asarray(after, float))
    values = np.concatenate([first, second])
    shares = [np.searchsorted(one, values, "right") / len(one) for one in (first, second)]
    d = float(np.abs(shares[0] - shares[1]).max())
    root = math.sqrt(len(first) * len(second) / (len(first) + len(second)))
    x = (root + 0.12 + 0.11 / root) * d
    if x < 0.2:  # the series converges slowly there, and its value is 1 to at least 6 digits
        return d, 1.0
    terms = (2 * (-1) ** (j - 1) * math.exp(-2 * (j * x) ** 2) for j in range(1, _NUM_TERMS))
    return d, min(1.0, max(0.0, sum(terms)))
