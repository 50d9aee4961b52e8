"""Local means and variances equal their definitions."""

import numpy as np
import pytest

from deepseek.watermark.image.filters import local_mean, local_variance, mean_gain


@pytest.mark.parametrize("radius", [1, 3, 4, 12])
def test_a_local_mean_is_the_mean_of_the_mirrored_plane(radius: int) -> None:
    plane = np.random.default_rng(radius).uniform(0, 255, (29, 41))
    mirrored = np.pad(plane, radius, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(mirrored, (2 * radius + 1, 2 * radius + 1))
    np.testing.assert_allclose(local_mean(plane, radius), windows.mean((2, 3)), rtol=1e-5)
    np.testing.assert_allclose(local_variance(plane, radius), windows.var((2, 3)), rtol=1e-3)


def test_a_flat_plane_has_no_variance() -> None:
    assert local_variance(np.full((20, 20), 255.0), 3).max() < 0.01


@pytest.mark.parametrize("frequency", [(0.0, 0.05), (0.031, 0.12), (-0.2, 0.17)])
def test_a_gain_is_the_share_of_a_sinusoid_that_remains(frequency: tuple[float, float]) -> None:
    y, x = np.mgrid[:60, :70]
    plane = np.cos(2 * np.pi * (frequency[0] * y + frequency[1] * x) + 0.4)
    inside = slice(4, -4)
    expected = mean_gain(np.array(frequency), 4) * plane[inside, inside]
    np.testing.assert_allclose(local_mean(plane, 4)[inside, inside], expected, atol=1e-5)
