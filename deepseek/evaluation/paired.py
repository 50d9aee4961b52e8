"""Tests whether two models that were evaluated on the same samples differ by more than chance."""

import math
from collections.abc import Callable

import numpy as np

from deepseek.evaluation.figures import Array

_RESAMPLES = 2000
_MAX_DRAWS = 200_000_000
_MIN_RESAMPLES = 200


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the two-sided p-value of McNemar's exact test (McNemar 1947, doi:10.1007/BF02295996).

    If both models were equally good, each sample that exactly one of them gets right would favour either model with
    probability 1/2. The p-value is the probability, under the binomial distribution, that the two numbers differ at
    least as much as they do.

    >>> round(mcnemar(1, 9), 9)
    0.021484375
    >>> mcnemar(3, 3)
    1.0

    Args:
        only_first: Number of samples that only the first model gets right.
        only_second: Number of samples that only the second model gets right.
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    steps = np.arange(1, fewer + 1)
    log_choices = np.concatenate([[0.0], np.cumsum(np.log(total - steps + 1) - np.log(steps))])
    tail = float(np.exp(log_choices - total * math.log(2)).sum())
    return min(1.0, 2 * tail)


def bootstrap(
    first: Array, second: Array, figure: Callable[[Array], Array], *, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Returns a percentile bootstrap interval of the difference of a figure, second minus first.

    Samples are drawn with replacement, the same ones for both models (Efron & Tibshirani 1993, chapter 13; Koehn 2004,
    https://aclanthology.org/W04-3250). The result is reproducible.

    Args:
        first: Parts of the figure for each sample, float [N, parts]; they are added up over the drawn samples.
        second: The same for the second model.
        figure: Function from sums [resamples, parts] to figures [resamples].
        level: Confidence level.
        seed: Seed of the draws.
    """
    draw = np.random.default_rng(seed)
    num_samples = len(first)
    num_resamples = int(np.clip(_MAX_DRAWS // num_samples, _MIN_RESAMPLES, _RESAMPLES))
    sums = np.empty((2, num_resamples, first.shape[1]))
    for index in range(num_resamples):
        chosen = draw.integers(num_samples, size=num_samples)
        sums[0, index], sums[1, index] = first[chosen].sum(0), second[chosen].sum(0)
    low, high = np.quantile(figure(sums[1]) - figure(sums[0]), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
