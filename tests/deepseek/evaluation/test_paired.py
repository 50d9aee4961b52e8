"""Paired tests of two models."""

import numpy as np
import pytest

from deepseek.evaluation import paired


def mean(sums: paired.Array) -> paired.Array:
    return np.asarray(sums[..., 0] / sums[..., 1])


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    # scipy.stats.binomtest
    [(0, 0, 1.0), (1, 0, 1.0), (6, 0, 0.03125), (1, 9, 0.021484375), (25, 50, 0.005228243), (5, 5, 1.0)],
)
def test_mcnemar(only_first: int, only_second: int, p_value: float) -> None:
    assert paired.mcnemar(only_first, only_second) == pytest.approx(p_value, abs=1e-6)
    assert paired.mcnemar(only_second, only_first) == paired.mcnemar(only_first, only_second)


def test_mcnemar_of_many_samples_is_a_number() -> None:
    assert 0 <= paired.mcnemar(400_000, 500_000) < 1e-300
    assert paired.mcnemar(500_000, 500_000) == 1
    assert paired.mcnemar(74, 0) == pytest.approx(2**-73)


def test_the_interval_contains_the_difference_and_is_reproducible() -> None:
    draw = np.random.default_rng(1)
    first = np.stack([draw.random(400) < 0.7, np.ones(400)], 1).astype(float)
    second = np.stack([draw.random(400) < 0.8, np.ones(400)], 1).astype(float)
    low, high = paired.bootstrap(first, second, mean)
    difference = second[:, 0].mean() - first[:, 0].mean()
    assert low < difference < high
    # 1.96 standard errors of a difference of independent shares
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt((0.7 * 0.3 + 0.8 * 0.2) / 400), rel=0.15)
    assert paired.bootstrap(first, second, mean) == (low, high)


def test_equal_models_do_not_differ() -> None:
    parts = np.stack([np.arange(10.0), np.ones(10)], 1)
    assert paired.bootstrap(parts, parts, mean) == (0, 0)
