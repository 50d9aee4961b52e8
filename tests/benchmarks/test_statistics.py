"""Statistical tests and intervals, compared with tables and with simulations."""

import math

import numpy as np
import pytest

from benchmarks.statistics import (
    chi_squared_p,
    interval,
    is_below,
    lower_bound,
    source_interval,
    uniformity,
    upper_bound,
)


@pytest.mark.parametrize(
    ("num_hits", "num_cases", "lower", "upper"),
    [(427, 427, 0.99301, 1.0), (0, 30_000, 0.0, 0.99852e-4), (5, 10, 0.22244, 0.77756)],
)
def test_bounds_are_those_of_clopper_and_pearson(num_hits: int, num_cases: int, lower: float, upper: float) -> None:
    assert lower_bound(num_hits, num_cases) == pytest.approx(lower, abs=1e-5)
    assert upper_bound(num_hits, num_cases) == pytest.approx(upper, abs=1e-5, rel=1e-3)


def test_uniformity_is_rejected_for_samples_that_are_not_uniform() -> None:
    random = np.random.default_rng(0)
    p = [uniformity(list(random.random(200))) for _ in range(400)]
    assert uniformity(p) > 0.01
    assert uniformity(list(random.random(1000) ** 1.2)) < 1e-3
    # Exact: 1.3581 / sqrt(n) is exceeded with probability 0.05 by large samples (Smirnov 1948).
    count = 1_000_000
    shifted = (np.arange(count) + 0.5) / count + 1.3581 / math.sqrt(count)
    assert uniformity(list(shifted)) == pytest.approx(0.05, abs=1e-3)


def test_the_bootstrap_draws_whole_sources() -> None:
    hits = [True] * 50 + [False] * 50
    assert source_interval(["a"] * 50 + ["b"] * 50, hits) == [0.0, 1.0]
    assert source_interval([str(i) for i in range(100)], hits) == pytest.approx([0.4, 0.6], abs=0.02)


@pytest.mark.parametrize(
    ("ours", "theirs", "below"),
    [
        ([], [], False),
        ([True] * 9, [True] * 9, False),
        ([True] * 9, [False] * 9, False),
        ([False] * 4, [True] * 4, False),  # one in sixteen by chance
        ([False] * 5, [True] * 5, True),  # one in thirty-two
        ([False] * 5 + [True], [True] * 5 + [False], False),  # seven in sixty-four
    ],
)
def test_below_means_significantly_below(ours: list[bool], theirs: list[bool], below: bool) -> None:
    assert is_below(ours, theirs) is below


@pytest.mark.parametrize(
    ("freedom", "statistic", "p"),
    [(2, 5.991465, 0.05), (8, 15.507313, 0.05), (28, 41.337138, 0.05), (28, 48.278236, 0.01)],
)
def test_chi_square_tails_equal_those_of_tables(freedom: int, statistic: float, p: float) -> None:
    assert chi_squared_p(statistic, freedom) == pytest.approx(p, rel=1e-5)
    assert chi_squared_p(0.0, freedom) == 1.0


def test_an_interval_has_half_the_error_on_either_side() -> None:
    assert interval(5, 10) == [pytest.approx(0.187086, abs=1e-6), pytest.approx(0.812914, abs=1e-6)]
