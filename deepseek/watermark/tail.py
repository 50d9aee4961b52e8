"""Exact tails of sums of independent scores. In logarithms, since p-values below 1e-300 happen."""

import math

import numpy as np
import numpy.typing as npt


def log_erlang_tail(n: int, x: float) -> float:
    """Natural logarithm of the probability that n standard exponentials sum up to x or more (Erlang distribution).

    P(X >= x) = exp(-x) * sum_{k < n} x^k / k!

    Args:
        n: How many; with none the sum is 0.
        x: The sum, nats.

    >>> round(log_erlang_tail(1, 2.0), 6)
    -2.0
    >>> round(math.exp(log_erlang_tail(3, 5.0)), 6)  # exp(-5) * (1 + 5 + 12.5)
    0.124652
    """
    if x <= 0:
        return 0.0
    if n == 0:
        return -math.inf
    k = np.arange(1, n)
    return min(0.0, _log_sum(np.concatenate([[0.0], np.cumsum(math.log(x) - np.log(k))])) - x)


def log_binomial_tail(n: int, k: int, log_q: float) -> float:
    """Natural logarithm of the probability of k successes or more in n trials.

    Args:
        n: Trials.
        k: Successes.
        log_q: Natural logarithm of the probability of one.

    >>> round(math.exp(log_binomial_tail(4, 3, math.log(0.5))), 6)  # (4 + 1) / 16
    0.3125
    """
    if k <= 0:
        return 0.0
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    many = np.arange(k, n + 1)
    choices = log_factorials[n] - log_factorials[many] - log_factorials[n - many]
    return min(0.0, _log_sum(choices + many * log_q + (n - many) * math.log1p(-math.exp(log_q))))


def log_lattice_tail(masses: npt.NDArray[np.float64], n: int, x: int) -> float:
    """Natural logarithm of the probability that n whole numbers sum up to x or more; not below that of 1e-12.

    Args:
        masses: (m,), probability of each of the numbers 0 to m - 1.
        n: How many.
        x: The sum.

    >>> round(math.exp(log_lattice_tail(np.array([0.5, 0.5]), 4, 3)), 6)
    0.3125
    """
    if x <= 0:
        return 0.0
    size = (len(masses) - 1) * n + 1
    spectrum = np.fft.rfft(masses, 1 << (size - 1).bit_length())
    tail = np.fft.irfft(spectrum**n)[x:size].sum() if x < size else 0.0
    # What a Fourier transform leaves of smaller probabilities is rounding.
    return min(0.0, math.log(max(tail, 1e-12)))


def _log_sum(terms: npt.NDArray[np.float64]) -> float:
    most = terms.max()
    return float(most + np.log(np.exp(terms - most).sum()))
