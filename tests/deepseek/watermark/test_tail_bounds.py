"""Tail probabilities of sums, compared with counts and simulations."""

import itertools
import math

import numpy as np
import pytest

from deepseek.watermark.tail_bounds import (
    log_bet,
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


def test_a_bet_on_large_scores_rarely_wins_without_them() -> None:
    totals = np.cumsum(np.random.default_rng(5).exponential(size=(1000, 100)), axis=1)
    most = np.array([max(log_bet(n, float(x)) for n, x in enumerate(walk, 1)) for walk in totals])
    # 1 / c bounds the share of bets that ever reach c, and the bound is not ten times too large.
    assert 1 / 100 < (most >= math.log(10)).mean() <= 1 / 10
    # On average, the value of a bet does not change.
    assert np.mean([math.exp(log_bet(2, float(x))) for x in totals[:, 1]]) == pytest.approx(1, abs=0.1)


def test_a_binomial_tail_equals_the_counted_share() -> None:
    n, q = 9, 0.3
    for k in range(n + 1):
        counted = sum(math.comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(k, n + 1))
        assert math.exp(log_binomial_tail(n, k, math.log(q))) == pytest.approx(counted)


@pytest.mark.parametrize("n", [3, 20, 200])
def test_a_lattice_tail_is_close_to_the_counted_share(n: int) -> None:
    masses = np.convolve(np.full(40, 1 / 40), np.linspace(0, 2 / 40, 41)[1:] / 1.025)
    counted = np.ones(1)
    for _ in range(n):
        counted = np.convolve(counted, masses)
    tails = np.cumsum(counted[::-1])[::-1]
    for x in np.flatnonzero((tails > 1e-11) & (tails < 0.99))[:: 7 * n]:
        assert math.exp(log_lattice_tail(masses, n, int(x))) == pytest.approx(tails[x], rel=0.02)


def test_a_lattice_tail_of_many_numbers_takes_no_longer() -> None:
    masses = np.full(5000, 1 / 5000)
    assert -500 < log_lattice_tail(masses, 16_000, round(16_000 * 2499.5 * 1.14)) < -460


WEIGHTS = {
    "one sinusoid": np.random.default_rng(1).rayleigh(1, (127, 1)),
    "three": np.random.default_rng(3).rayleigh(1, (127, 3)),
    "eight": np.random.default_rng(8).rayleigh(1, (127, 8)),
    "one bit stands out": np.concatenate([np.full((1, 3), 2.4), np.full((126, 3), 0.05)]),
    "three bits stand out": np.concatenate([np.full((3, 8), 2.4), np.full((124, 8), 0.1)]),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_an_energy_tail_is_the_share_of_random_phases_with_that_energy(name: str) -> None:
    random, weights_BJ = np.random.default_rng(0), WEIGHTS[name]
    energies = np.sort(
        [
            ((weights_BJ * np.cos(random.uniform(0, 2 * np.pi, (500, *weights_BJ.shape)))).sum(2) ** 2).sum(1)
            for _ in range(80)
        ],
        axis=None,
    )
    for share in (0.3, 0.05, 0.005, 0.0005):
        level = float(np.quantile(energies, 1 - share))
        assert math.exp(log_energy_tail(weights_BJ, level)) == pytest.approx(share, rel=0.4)
        scaled = log_energy_tail(weights_BJ / 50, level / 2500)
        assert scaled == pytest.approx(log_energy_tail(weights_BJ, level), rel=1e-3)


def test_near_the_maximum_an_energy_tail_is_a_volume_of_phases() -> None:
    """Near its maximum, the energy falls with the squares of the phases, two per bit, so these fill a ball."""
    num_bits, num_sinusoids = 20, 3
    dimensions, most = num_bits * num_sinusoids, num_bits * num_sinusoids**2
    energy = 0.85 * most
    radius = math.sqrt((most - energy) / num_sinusoids)
    log_ball = dimensions / 2 * math.log(math.pi) - math.lgamma(dimensions / 2 + 1) + dimensions * math.log(radius)
    expected = log_ball - dimensions * math.log(2 * math.pi) + num_bits * math.log(2)
    assert log_energy_tail(np.ones((num_bits, num_sinusoids)), energy) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("name", WEIGHTS)
def test_an_energy_tail_falls_to_nothing(name: str) -> None:
    weights_BJ = WEIGHTS[name]
    least, most = (weights_BJ**2).sum() / 2, (weights_BJ.sum(1) ** 2).sum()
    tails = [log_energy_tail(weights_BJ, energy) for energy in np.linspace(least, 1.5 * most, 20)]
    assert tails[0] == 0.0
    assert all(later < sooner + 2 for sooner, later in itertools.pairwise(tails))  # the bound that takes over is larger
    assert tails[-1] < -100
    assert log_energy_tail(weights_BJ, least - 1) == 0.0
    assert log_energy_tail(np.zeros((127, 3)), 0.0) == 0.0
