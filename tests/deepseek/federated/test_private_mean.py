"""The sensitivity of clipped sums, in exact arithmetic, and the noise."""

from collections.abc import Sequence
from fractions import Fraction
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import InvalidArgument
from deepseek.federated.arrays import Arrays, Shapes
from deepseek.federated.private_mean import ClippedSum, clip_to_grid
from deepseek.privacy.norms import MAX_NORM, MIN_NORM

SHAPES = {"a": (3,), "b": (1, 2)}
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)
UPDATES = st.lists(FLOATS, min_size=5, max_size=5).map(
    lambda values: {"a": np.float32(values[:3]), "b": np.float32(values[3:]).reshape(1, 2)}
)
CLIP_NORMS = st.floats(MIN_NORM, MAX_NORM)
HUGE, TINY = float(np.finfo(np.float32).max), float(np.finfo(np.float32).smallest_subnormal)


def _sum(updates: Sequence[Arrays], clip_norm: float, shapes: Shapes = SHAPES) -> ClippedSum:
    total = ClippedSum(shapes, clip_norm)
    for update in updates:
        total.add(update)
    return total


def _update(*values: float) -> dict[str, npt.NDArray[np.float32]]:
    return {"a": np.float32(values[:3]), "b": np.float32(values[3:]).reshape(1, 2)}


def _squared_norm(arrays: dict[str, npt.NDArray[np.float64]]) -> Fraction:
    """Returns the exact square of the L2 norm."""
    return sum((Fraction(float(value)) ** 2 for array in arrays.values() for value in array.ravel()), Fraction())


@given(UPDATES, CLIP_NORMS)
@example(_update(HUGE, HUGE, HUGE, HUGE, -HUGE), 1.0)
@example(_update(TINY, TINY, TINY, TINY, TINY), MIN_NORM)
@example(_update(HUGE, TINY, 0, -0.0, 1), MAX_NORM)
@example(_update(0, 0, 0, 0, 0), 1.0)
@example(_update(1, 1, 1, 1, 0), 2.0)
def test_the_norm_never_exceeds_the_bound_exactly(update: dict[str, npt.NDArray[np.float32]], clip_norm: float) -> None:
    assert _squared_norm(clip_to_grid(update, clip_norm)) <= Fraction(clip_norm) ** 2


@given(st.lists(UPDATES, min_size=1, max_size=8), UPDATES, CLIP_NORMS, st.randoms(use_true_random=False))
def test_one_node_changes_the_sum_by_at_most_the_bound_exactly(
    others: list[dict[str, npt.NDArray[np.float32]]],
    update: dict[str, npt.NDArray[np.float32]],
    clip_norm: float,
    random: Random,
) -> None:
    everyone = [*others, update]
    random.shuffle(everyone)
    with_node, without = _sum(everyone, clip_norm).arrays, _sum(others, clip_norm).arrays
    change = [
        Fraction(float(one)) - Fraction(float(other))
        for name in SHAPES
        for one, other in zip(with_node[name].ravel(), without[name].ravel(), strict=True)
    ]
    assert sum(value**2 for value in change) <= Fraction(clip_norm) ** 2


@given(st.lists(UPDATES, max_size=8), CLIP_NORMS, st.randoms(use_true_random=False))
def test_sums_do_not_depend_on_the_order(
    updates: list[dict[str, npt.NDArray[np.float32]]], clip_norm: float, random: Random
) -> None:
    expected = _sum(updates, clip_norm).arrays
    random.shuffle(updates)
    for name, array in _sum(updates, clip_norm).arrays.items():
        assert array.tobytes() == expected[name].tobytes()


def test_the_norm_of_many_values_never_exceeds_the_bound() -> None:
    random = np.random.default_rng(0)
    update = {"w": random.standard_t(1, 200_000).astype(np.float32)}
    for clip_norm in (1e-3, 1.0, 1e3):
        clipped = clip_to_grid(update, clip_norm)
        squared = _squared_norm(clipped)
        assert Fraction(clip_norm) ** 2 * Fraction(9999, 10000) < squared <= Fraction(clip_norm) ** 2


def test_an_update_within_the_bound_keeps_its_direction_and_size() -> None:
    update = _update(0.1, -0.2, 0.3, 0.4, -0.5)
    clipped = clip_to_grid(update, 1.0)
    for name, array in update.items():
        np.testing.assert_allclose(clipped[name], array, atol=2.0**-31)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(InvalidArgument) as caught:
        clip_to_grid(_update(0, 1, 2, value, 4), 1.0)
    assert caught.value.reason == "NOT_FINITE"


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, 1e-13, 1e13, np.inf, np.nan])
def test_bounds_out_of_range_are_refused(clip_norm: float) -> None:
    with pytest.raises(InvalidArgument, match="clip_norm is") as caught:
        clip_to_grid(_update(0, 1, 2, 3, 4), clip_norm)
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "privacy.clip_norm")


def test_the_denominator_does_not_depend_on_how_many_took_part() -> None:
    updates = [_update(3, 0, 0, 0, 4)] * 3
    mean = _sum(updates, 1.0).noisy_mean(0.0, 4.0)
    np.testing.assert_allclose(mean["a"], [3 * 0.6 / 4, 0, 0], rtol=1e-8)
    np.testing.assert_allclose(mean["b"], [[0, 3 * 0.8 / 4]], rtol=1e-8)


def test_nobody_at_all_gives_noise_of_the_right_size() -> None:
    shapes = {"w": (100, 100)}
    mean = _sum([], 0.5, shapes).noisy_mean(4.0, 10.0, Random(0))
    # The relative standard error of the standard deviation of 10,000 values is 0.7 %.
    assert np.std(mean["w"]) == pytest.approx(4.0 * 0.5 / 10.0, rel=0.03)
    assert abs(np.mean(mean["w"])) < 5 * 0.2 / 100


def test_noise_is_drawn_again_every_time() -> None:
    means = [_sum([], 1.0).noisy_mean(1.0, 1.0) for _ in range(2)]
    assert means[0]["a"].tolist() != means[1]["a"].tolist()
