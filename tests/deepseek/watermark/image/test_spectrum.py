"""Amplitudes at any frequency equal the sums that define them."""

import numpy as np
import pytest

from deepseek.watermark.image.spectrum import Spectrum, normalize_contrast, synthesise


def waves(frequencies: np.ndarray, height: int, width: int) -> np.ndarray:
    """exp(2 pi i f (x - centre)) for every frequency, (K, H, W)."""
    y, x = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    exponents = frequencies[:, 0, None, None] * y + frequencies[:, 1, None, None] * x
    return np.asarray(np.exp(2j * np.pi * exponents))


@pytest.mark.parametrize("shape", [(64, 80), (37, 51), (65, 48)])
def test_amplitudes_equal_their_defining_sums(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    image, frequencies = random.normal(size=shape), random.uniform(-0.45, 0.45, (30, 2))
    expected = (waves(frequencies, *shape).conj() * image).sum((1, 2))
    found = Spectrum(image).amplitudes(frequencies)
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("shape", [(64, 80), (37, 51)])
def test_a_synthesised_plane_is_the_sum_of_its_sinusoids(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(2)
    amplitudes = random.normal(size=20) + 1j * random.normal(size=20)
    frequencies = random.uniform(-0.45, 0.45, (20, 2))
    expected = (waves(frequencies, *shape) * amplitudes[:, None, None]).sum(0).real
    assert np.abs(synthesise(amplitudes, frequencies, *shape) - expected).max() < 1e-3 * np.abs(expected).max()


def test_a_sinusoid_exceeds_the_noise_around_it() -> None:
    random = np.random.default_rng(3)
    frequencies = np.array([[0.11, 0.2], [-0.07, 0.15], [0.2, -0.1]])
    image = random.normal(size=(200, 240)) + 0.2 * waves(frequencies[:1], 200, 240)[0].real
    excess = Spectrum(image).excess(frequencies)
    assert excess[0] > 20 > 10 > excess[1:].max()
    np.testing.assert_allclose(Spectrum(image).noise(frequencies[1:]), 1, atol=0.4)


def test_calm_parts_count_more_after_normalization() -> None:
    random = np.random.default_rng(4)
    luma = 128 + random.normal(size=(100, 200)) * np.where(np.arange(200) < 100, 5.0, 50.0)
    image, _ = normalize_contrast(luma)
    for part, deviation in ((image[:, :90], 5.0), (image[:, 110:], 50.0)):
        assert part.std() == pytest.approx(deviation / (deviation + 1.5) ** 1.5 * 1.5**0.5, rel=0.1)
