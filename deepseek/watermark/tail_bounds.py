"""Tail probabilities of sums of independent scores.

A function is exact, up to rounding, unless its docstring says that the result is a bound or an approximation. All
functions return natural logarithms, because a p-value may be too small to be represented as a float.
"""

import math

import numpy as np
import numpy.typing as npt

from deepseek.watermark.arrays import Real

_STEP, _DECAY = 0.75, 7.0
"""Step and cut-off, in standard deviations, of the trapezoidal rule with which `log_energy_tail` averages over a
standard normal variable."""
_MAX_STEPS, _MOST_T = 20, 4.0
_LARGE = 500.0

_RATES = (0.4, 0.55, 0.75)
"""Rates of the exponential distributions that `log_bet` mixes. A low rate suits text for which the model had many
plausible tokens to choose from; a high rate suits text for which the model had few."""


def log_erlang_tail(n: int, x: float) -> float:
    """Returns the log probability that n independent standard exponentials sum to x or more (Erlang distribution).

    For the sum X of the variables and x >= 0: P(X >= x) = exp(-x) * sum_{k < n} x^k / k!

    Args:
        n: Number of variables. If it is 0, X is 0.
        x: Threshold for X, in nats.

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
    """Returns the log probability of k or more successes in n trials.

    Args:
        n: Number of trials.
        k: Lower limit of the number of successes.
        log_q: Natural logarithm of the probability of success in one trial.

    >>> round(math.exp(log_binomial_tail(4, 3, math.log(0.5))), 6)  # (4 + 1) / 16
    0.3125
    """
    if k <= 0:
        return 0.0
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    many = np.arange(k, n + 1)
    choices = log_factorials[n] - log_factorials[many] - log_factorials[n - many]
    return min(0.0, _log_sum(choices + many * log_q + (n - many) * math.log1p(-math.exp(log_q))))


def log_erlang_bound(n: int, x: float) -> float:
    """Returns Chernoff's upper bound on `log_erlang_tail`. The computing time does not depend on n.

    >>> log_erlang_bound(3, 5.0) >= log_erlang_tail(3, 5.0)
    True
    """
    return 0.0 if x <= n else -n * (x / n - 1 - math.log(x / n))


def log_bet(n: int, x: float) -> float:
    """Returns the log wealth of a gambler who starts with 1 and bets on large scores, after n scores that sum to x.

    The wealth is the mean, over the rates r in `_RATES`, of the likelihood ratios r^n exp((1 - r) x); all rates are
    below 1. If the scores are independent standard exponentials, the wealth is a martingale, so the probability that it
    reaches c at any n is at most 1 / c (Ville 1939). The negative of the result is therefore the logarithm of a
    p-value, which stays valid even if n is chosen after the scores are known.

    >>> log_bet(0, 0.0)
    0.0
    >>> -log_bet(10, 40.0) >= log_erlang_tail(10, 40.0)
    True
    """
    return _log_sum(np.array([n * math.log(rate) + (1 - rate) * x for rate in _RATES])) - math.log(len(_RATES))


def log_lattice_tail(masses: npt.NDArray[np.float64], n: int, x: int) -> float:
    """Returns the log probability that n independent, identically distributed integers sum to x or more.

    The result is a saddlepoint approximation for lattices (Lugannani and Rice 1980; Daniels 1987, section 4). Its
    relative error decreases as 1 / n, and its cost does not depend on n.

    Args:
        masses: Probabilities of the integers 0 to m - 1, (m,).
        n: Number of integers that are added.
        x: Lower limit of the sum.

    >>> round(math.exp(log_lattice_tail(np.full(2, 0.5), 40, 30)), 6)  # exactly 0.001111
    0.001117
    """
    values = np.arange(len(masses))
    mean = float(masses @ values)
    if x <= 0 or n == 0:
        return 0.0 if x <= 0 else -math.inf
    if x > n * (len(masses) - 1):
        return -math.inf
    if x == n * (len(masses) - 1):
        return n * math.log(masses[-1])
    logarithms = np.log(np.maximum(masses, 1e-300))
    scale = 1 / math.sqrt(float(masses @ (values - mean) ** 2))

    def tilted(t: float) -> tuple[float, float, float]:
        """Returns the cumulant generating function at t, and the mean and variance of the distribution tilted by t."""
        exponents = logarithms + t * values
        most = exponents.max()
        weights = np.exp(exponents - most)
        total = weights.sum()
        first = float(weights @ values / total)
        return float(most + math.log(total)), first, float(weights @ (values - first) ** 2 / total)

    low, high = -50 * scale, 50 * scale
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if tilted(middle)[1] * n < x else (low, middle)
    t = (low + high) / 2
    cumulant, _, variance = tilted(t)
    signed = math.copysign(math.sqrt(max(0.0, 2 * (t * x - n * cumulant))), t)
    if abs(signed) < 1e-3:  # where the formula is 0 / 0
        return math.log(0.5)
    other = -math.expm1(-t) * math.sqrt(n * variance)
    return min(0.0, _log_normal_tail(signed, 1 / other - 1 / signed))


def log_energy_tail(weights_BJ: Real, energy: float) -> float:
    """Returns the log probability that an energy is at least `energy` if all phases are independent and uniform.

    The energy is sum_b (sum_j w_bj cos(phi_bj))^2, with weights w and phases phi. The result is a saddlepoint
    approximation (Lugannani and Rice 1980). The approximation fails near the greatest possible energy; there, the
    result is Chernoff's bound.

    Let c be the inner sum for one b, and g a standard normal variable. For a given c, exp(t c^2) is the mean of
    exp(sqrt(2 t) g c) over g. For a given s, the mean of exp(s w cos(phi)) over a uniform phase phi is I_0(s w), where
    I_0 is the modified Bessel function. So the cumulant generating function of the energy is

        K(t) = sum_b log(E prod_j I_0(sqrt(2 t) g w_bj)),

    where E is the mean over g, computed by the trapezoidal rule. The integrand has its maximum below
    g = sqrt(2 t) sum_j w_bj; the rule extends so far beyond this point that the rest of the integral is negligible.

    Args:
        weights_BJ: Weights w, (B, J), not negative.
        energy: Lower limit of the energy. If this limit is not above the mean energy, the result is 0.

    >>> round(math.exp(log_energy_tail(np.full((300, 50), 0.2), 350.0)), 3)  # tail of chi-square(300): 0.025
    0.024
    """
    mean = float((weights_BJ**2).sum()) / 2
    if energy <= mean:
        return 0.0
    # Scales the weights so that the mean energy is 1 per row.
    unit = mean / len(weights_BJ)
    weights_BJ, energy = weights_BJ / math.sqrt(unit), energy / unit
    most = float(weights_BJ.sum(1).max())

    def cumulant(t: float) -> float:
        scale = math.sqrt(2 * t)
        nodes_Q = np.arange(0.0, scale * most + _DECAY, _STEP)
        masses_Q = np.full(len(nodes_Q), 2 * _STEP / math.sqrt(2 * math.pi))
        masses_Q[0] /= 2
        exponents_BQ = sum(_log_i0(scale * weights_B1 * nodes_Q) for weights_B1 in weights_BJ.T[:, :, None])
        exponents_BQ = exponents_BQ - nodes_Q**2 / 2 + np.log(masses_Q)
        greatest_B1 = exponents_BQ.max(1, keepdims=True)
        return float((greatest_B1[:, 0] + np.log(np.exp(exponents_BQ - greatest_B1).sum(1))).sum())

    # Newton's method for K'(t) = energy, starting at the solution for a normal distribution.
    excess = energy - len(weights_BJ)
    t = min(_MOST_T, 2 * excess / float(((weights_BJ**2).sum(1) ** 2).sum()))
    is_found = False
    for _ in range(_MAX_STEPS):
        step = 0.01 * t
        below, here, above = (cumulant(t + sign * step) for sign in (-1, 0, 1))
        slope, variance = (above - below) / (2 * step), (above + below - 2 * here) / step**2
        is_found = variance > 0 and abs(energy - slope) < 1e-3 * excess
        if is_found or variance <= 0 or (t == _MOST_T and slope < energy):
            break
        t = min(max(t + (energy - slope) / variance, t / 2), 2 * t, _MOST_T)
    exponent = min(0.0, (here if is_found else cumulant(t)) - t * energy)
    signed = math.sqrt(-2 * exponent)
    if not is_found or signed < 1e-3:
        return exponent
    return min(0.0, _log_normal_tail(signed, 1 / (t * math.sqrt(variance)) - 1 / signed))


def _log_i0(x: Real) -> Real:
    """Returns the logarithm of the modified Bessel function I_0 at x >= 0. For large x, uses its asymptotic form."""
    large = np.maximum(x, _LARGE)
    return np.where(x < _LARGE, np.log(np.i0(np.minimum(x, _LARGE))), large - np.log(2 * np.pi * large) / 2)


def _log_normal_tail(z: float, correction: float) -> float:
    """Returns log(1 - Phi(z) + correction * phi(z)), for the standard normal density phi and its integral Phi."""
    density = -z * z / 2 - math.log(2 * math.pi) / 2
    if z < 25:
        return math.log(max(math.erfc(z / math.sqrt(2)) / 2 + correction * math.exp(density), 1e-300))
    mills = 1 / z - 1 / z**3 + 3 / z**5
    return density + math.log(max(mills + correction, 1e-300))


def _log_sum(terms: npt.NDArray[np.float64]) -> float:
    most = terms.max()
    return float(most + np.log(np.exp(terms - most).sum()))
