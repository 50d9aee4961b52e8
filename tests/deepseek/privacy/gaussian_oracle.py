"""The exact privacy of the Gaussian mechanism, independent of the code under test."""

import math


def exact_epsilon(noise_multiplier: float, delta: float) -> float:
    """Returns the smallest epsilon of one Gaussian release (Balle and Wang 2018, arXiv:1805.06530, equation 8).

    >>> round(exact_epsilon(1.0, 1e-5), 5)
    4.37718
    """
    low, high = 0.0, 1.0
    while exact_delta(noise_multiplier, high) > delta:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if exact_delta(noise_multiplier, middle) > delta else (low, middle)
    return high


def exact_delta(noise_multiplier: float, epsilon: float) -> float:
    """Returns the smallest delta of one Gaussian release for an epsilon, by the same equation."""
    half, ratio = 0.5 / noise_multiplier, epsilon * noise_multiplier
    return _normal_cdf(half - ratio) - math.exp(epsilon) * _normal_cdf(-half - ratio)


def _normal_cdf(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2
