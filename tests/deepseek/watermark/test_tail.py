"""Tails of sums, against sums that were counted."""

import itertools
import math

import numpy as np
import pytest

from deepseek.watermark.tail import log_binomial_tail, log_erlang_tail, log_lattice_tail


@pytest.mark.parametrize("n", [1, 2, 10, 100])
def test_an_erlang_tail_is_the_integral_of_its_density(n: int) -> None:
    x = n * 1.5
    t = np.linspace(x, x + 60 + 10 * n, 2_000_001)
    density = np.exp((n - 1) * np.log(t) - t - math.lgamma(n))
    integral = float(((density[1:] + density[:-1]) / 2 * np.diff(t)).sum())
    assert math.exp(log_erlang_tail(n, x)) == pytest.approx(integral, rel=1e-6)


def test_tails_without_trials_and_far_out() -> None:
    assert log_erlang_tail(0, 0.0) == log_erlang_tail(5, 0.0) == log_binomial_tail(0, 0, -1) == 0.0
    assert log_erlang_tail(1, 5000.0) == -5000.0
    assert log_erlang_tail(10_000, 20_000.0) < -3000
    assert log_binomial_tail(1000, 1000, math.log(0.25)) == pytest.approx(1000 * math.log(0.25))
    assert log_lattice_tail(np.array([0.5, 0.5]), 0, 0) == 0.0
    assert log_lattice_tail(np.array([0.5, 0.5]), 3, 4) == math.log(1e-12)


def test_a_binomial_tail_is_what_counting_says() -> None:
    n, q = 9, 0.3
    for k in range(n + 1):
        counted = sum(math.comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(k, n + 1))
        assert math.exp(log_binomial_tail(n, k, math.log(q))) == pytest.approx(counted)


def test_a_lattice_tail_is_what_counting_says() -> None:
    masses = np.array([0.1, 0.0, 0.6, 0.3])
    for x in range(13):
        counted = sum(
            math.prod(masses[one] for one in ones) for ones in itertools.product(range(4), repeat=4) if sum(ones) >= x
        )
        assert math.exp(log_lattice_tail(masses, 4, x)) == pytest.approx(max(counted, 1e-12), abs=1e-12)
