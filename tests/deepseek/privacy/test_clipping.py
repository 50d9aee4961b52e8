"""No contribution has a norm above the bound, and none that is not finite passes."""

import math
import random
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from common.errors import InvalidArgument
from deepseek.privacy.clipping import clip, l2_norm


def exact_square(arrays: dict[str, npt.NDArray[np.float64]]) -> Fraction:
    return sum((Fraction(float(x)) ** 2 for array in arrays.values() for x in array.ravel()), Fraction(0))


@pytest.mark.parametrize("seed", range(20))
def test_the_exact_norm_is_at_most_the_bound(seed: int) -> None:
    source, drawn = random.Random(seed), np.random.default_rng(seed)
    scale, bound = 10.0 ** source.randint(-20, 20), 10.0 ** source.uniform(-3, 3)
    arrays = {name: (drawn.standard_normal((7, 11)) * scale).astype(np.float32) for name in "abc"}
    assert exact_square(clip(arrays, bound)) <= Fraction(bound) ** 2


def test_direction_is_kept() -> None:
    clipped = clip({"a": np.array([3.0]), "b": np.array([[0.0, -4.0]])}, 1.0)
    np.testing.assert_allclose(clipped["a"], [0.6], rtol=1e-11)
    np.testing.assert_allclose(clipped["b"], [[0.0, -0.8]], rtol=1e-11)


def test_a_contribution_below_the_bound_is_unchanged() -> None:
    arrays = {"a": np.array([0.1, -0.2], np.float32)}
    clipped = clip(arrays, 10.0)["a"]
    assert clipped.dtype == np.float64
    assert np.array_equal(clipped, arrays["a"])


@pytest.mark.parametrize("arrays", [{}, {"a": np.zeros(3)}, {"a": np.zeros((0, 4))}])
def test_zeros_are_fine(arrays: dict[str, npt.NDArray[np.float64]]) -> None:
    assert all(not array.any() for array in clip(arrays, 1.0).values())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InvalidArgument, match="'b' contains NaN or infinity") as caught:
        clip({"a": np.ones(2), "b": np.array([0.0, value], np.float32)}, 1.0)
    assert (caught.value.reason, caught.value.field) == ("NOT_FINITE", "b")


@pytest.mark.parametrize("size", [1e-320, 1e-200, 1e200, 1.7e308])
def test_squares_neither_overflow_nor_vanish(size: float) -> None:
    arrays = {"a": np.full(4, size)}
    assert l2_norm({"a": np.full(4, min(size, 1e300))}) == pytest.approx(2 * min(size, 1e300))
    assert exact_square(clip(arrays, 1e-330 + 1e-3)) <= Fraction(1e-330 + 1e-3) ** 2


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf, "1"])
def test_a_bad_bound_is_refused(bound: float) -> None:
    with pytest.raises(InvalidArgument) as caught:
        clip({"a": np.ones(1)}, bound)
    assert (caught.value.reason, caught.value.field) == ("BAD_NORM", "max_norm")
