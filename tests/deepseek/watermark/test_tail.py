"""Tails of sums, against sums that were counted."""

import itertools
import math

import numpy as np
import pytest

from deepseek.watermark.tail import (
    log_binomial_tail,
    log_energy_tail,
    log_erlang_bound,
    log_erlang_tail,
    log_lattice_tail,
)


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
    assert log_lattice_tail(np.array([0.5, 0.5]), 3, 4) == -math.inf
    assert log_lattice_tail(np.array([0.5, 0.5]), 3, 3) == pytest.approx(3 * math.log(0.5))


@pytest.mark.parametrize("n", [1, 7, 5000])
def test_a_bound_of_a_tail_is_above_it_and_not_by_much(n: int) -> None:
    for x in (0.5 * n, n, 1.2 * n, 3 * n, 10 * n):
        assert log_erlang_tail(n, x) <= log_erlang_bound(n, x) <= log_erlang_tail(n, x) + 4 + math.log(n)


def test_a_binomial_tail_is_what_counting_says() -> None:
    n, q = 9, 0.3
    for k in range(n + 1):
        counted = sum(math.comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(k, n + 1))
        assert math.exp(log_binomial_tail(n, k, math.log(q))) == pytest.approx(counted)


@pytest.mark.parametrize("n", [3, 20, 200])
def test_a_lattice_tail_is_close_to_what_counting_says(n: int) -> None:
    masses = np.convolve(np.full(40, 1 / 40), np.linspace(0, 2 / 40, 41)[1:] / 1.025)
    counted = np.ones(1)
    for _ in range(n):
        counted = np.convolve(counted, masses)
    tails = np.cumsum(counted[::-1])[::-1]
    for x in np.flatnonzero((tails > 1e-11) & (tails < 0.99))[:: 7 * n]:
        assert math.exp(log_lattice_tail(masses, n, int(x))) == pytest.approx(tails[x], rel=0.02)


def test_a_lattice_tail_of_many_numbers_is_no_more_work() -> None:
    masses = np.full(5000, 1 / 5000)
    assert -500 < log_lattice_tail(masses, 16_000, round(16_000 * 2499.5 * 1.14)) < -460


@pytest.mark.parametrize("num_sinusoids", [1, 3, 8])
def test_an_energy_tail_is_how_often_random_phases_have_that_energy(num_sinusoids: int) -> None:
    random = np.random.default_rng(num_sinusoids)
    weights_BJ = random.rayleigh(1, (127, num_sinusoids))
    energies = np.sort(
        [
            ((weights_BJ * np.cos(random.uniform(0, 2 * np.pi, (500, *weights_BJ.shape)))).sum(2) ** 2).sum(1)
            for _ in range(80)
        ],
        axis=None,
    )
    for share in (0.3, 0.05, 0.005):
        level = float(np.quantile(energies, 1 - share))
        assert math.exp(log_energy_tail(weights_BJ, level)) == pytest.approx(share, rel=0.2)


def test_an_energy_tail_is_defined_everywhere() -> None:
    assert log_energy_tail(np.zeros((127, 3)), 0.0) == 0.0
    weights_BJ = np.ones((127, 3))
    least, most = 127 * 1.5, 127 * 9.0
    tails = [log_energy_tail(weights_BJ, energy) for energy in np.linspace(least + 1e-9, most - 1, 30)]
    assert all(later < sooner for sooner, later in itertools.pairwise(tails))
    assert log_energy_tail(weights_BJ, least - 1) == 0.0
    assert math.isfinite(log_energy_tail(weights_BJ, most + 1))
