"""Tails of sums of independent scores, exact where not said otherwise. In logarithms: p-values below 1e-300 happen."""

import math

import numpy as np
import numpy.typing as npt

from deepseek.watermark.arrays import Real

_STEP, _DECAY = 0.75, 7.0
"""Of the rule for means over a standard normal, deviations: steps, and where its density is as good as 0."""
_MAX_STEPS, _MOST_T = 20, 4.0
_LARGE = 500.0

_RATES = (0.4, 0.55, 0.75)
"""Of the exponentials that a bet is on: between text of much choice, whose evidence is large, and of little."""


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


def log_erlang_bound(n: int, x: float) -> float:
    """A bound of `log_erlang_tail` from above (Chernoff), in a step however large n is.

    >>> log_erlang_bound(3, 5.0) >= log_erlang_tail(3, 5.0)
    True
    """
    return 0.0 if x <= n else -n * (x / n - 1 - math.log(x / n))


def log_bet(n: int, x: float) -> float:
    """Logarithm of what a bet of 1 on large scores holds after n standard exponentials that sum up to x.

    It is the mean, over rates r below 1, of the likelihood ratios r^n exp((1 - r) x). Each exponential multiplies it by
    1 on average, so the probability that it ever holds c or more, at whatever n, is at most 1 / c (Ville 1939).

    >>> log_bet(0, 0.0)
    0.0
    >>> -log_bet(10, 40.0) >= log_erlang_tail(10, 40.0)
    True
    """
    return _log_sum(np.array([n * math.log(rate) + (1 - rate) * x for rate in _RATES])) - math.log(len(_RATES))


def log_lattice_tail(masses: npt.NDArray[np.float64], n: int, x: int) -> float:
    """Natural logarithm of the probability that n independent whole numbers sum up to x or more.

    By the saddlepoint approximation for lattices (Lugannani and Rice 1980; Daniels 1987, section 4), whose relative
    error falls as 1 / n; it needs the numbers' distribution only once, however many there are.

    Args:
        masses: (m,), probability of each of the numbers 0 to m - 1.
        n: How many.
        x: The sum.

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
        """Cumulant generating function, and mean and variance of the tilted distribution."""
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
    """Natural logarithm of the probability that sum_b (sum_j w_bj cos(phi_bj))^2 has a value or more, where the phases
    are independent and uniform.

    By the saddlepoint approximation (Lugannani and Rice 1980), or, near the greatest value that there can be, by
    Chernoff's bound. The square of a sum c is linear in c under a standard normal g, exp(t c^2) = E exp(sqrt(2 t) g c),
    and E exp(s w cos(phi)) = I_0(s w); so

        K(t) = sum_b log(E prod_j I_0(sqrt(2 t) g w_bj)),

    where the mean over g is by the trapezoidal rule, up to where the integrand has died away: it is largest before
    g = sqrt(2 t) sum_j w_bj.

    Args:
        weights_BJ: (B, J), 0 or more.
        energy: The value. Up to the mean the answer is 0.

    >>> round(math.exp(log_energy_tail(np.full((300, 50), 0.2), 350.0)), 3)  # nearly chi-square, 300 degrees: 0.025
    0.024
    """
    mean = float((weights_BJ**2).sum()) / 2
    if energy <= mean:
        return 0.0
    # With a mean of 1 a row.
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

    # Newton's method for K'(t) = energy, from where a normal distribution has it.
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
    """Natural logarithm of the modified Bessel function of order 0, of x of 0 or more; it is asymptotic where exp(x)
    would be too large.
    """
    large = np.maximum(x, _LARGE)
    return np.where(x < _LARGE, np.log(np.i0(np.minimum(x, _LARGE))), large - np.log(2 * np.pi * large) / 2)


def _log_normal_tail(z: float, correction: float) -> float:
    """log(1 - Phi(z) + correction * phi(z)), with phi the standard normal density and Phi its integral."""
    density = -z * z / 2 - math.log(2 * math.pi) / 2
    if z < 25:
        return math.log(max(math.erfc(z / math.sqrt(2)) / 2 + correction * math.exp(density), 1e-300))
    mills = 1 / z - 1 / z**3 + 3 / z**5
    return density + math.log(max(mills + correction, 1e-300))


def _log_sum(terms: npt.NDArray[np.float64]) -> float:
    most = terms.max()
    return float(most + np.log(np.exp(terms - most).sum()))
