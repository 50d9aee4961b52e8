"""The pattern of a key: its sinusoids, and the search for its place in an image."""

import hashlib
import math

import numpy as np
import pytest

from deepseek.watermark.image.bch_code import NUM_BITS
from deepseek.watermark.image.pattern import (
    HIGHEST,
    LOWEST,
    NUM_SINUSOIDS,
    PERIOD,
    SUBSETS,
    Geometry,
    Pattern,
    PolarSearch,
    Subset,
)
from deepseek.watermark.image.spectrum import Spectrum
from tests.deepseek.watermark.image.keys import a_key


def test_a_key_always_gives_the_same_pattern_and_another_key_another() -> None:
    one, same, other = Pattern(a_key()), Pattern(a_key()), Pattern(a_key(1))
    assert (one.frequencies_BJ2 == same.frequencies_BJ2).all()
    assert (one.phases_BJ == same.phases_BJ).all()
    assert (
        len(set(map(tuple, one.frequencies_BJ2.reshape(-1, 2))) & set(map(tuple, other.frequencies_BJ2.reshape(-1, 2))))
        < 60
    )


def test_the_pattern_of_a_key_never_changes() -> None:
    """Otherwise, marks of earlier releases could not be detected."""
    pattern = Pattern(a_key())
    lattice = np.rint(pattern.frequencies_BJ2 * PERIOD).astype("<i2")
    phases = np.rint(pattern.phases_BJ * 1e6).astype("<i4")
    assert (
        hashlib.sha256(lattice.tobytes() + phases.tobytes()).hexdigest()
        == "f18acc6ed5e29d12506f88f757da1f4c6d5e7aa356f364c1ffccf2a26488c51d"
    )


def test_frequencies_lie_on_the_lattice_in_the_band_and_apart() -> None:
    frequencies = Pattern(a_key()).frequencies_BJ2
    assert frequencies.shape == (NUM_BITS, NUM_SINUSOIDS, 2)
    radii = np.hypot(frequencies[..., 0], frequencies[..., 1])
    assert radii.min() > LOWEST - 2 / PERIOD
    assert radii.max() < HIGHEST + 2 / PERIOD
    lattice = np.rint(frequencies.reshape(-1, 2) * PERIOD)
    distances = np.abs(lattice[:, None] - lattice).max(-1)
    np.fill_diagonal(distances, PERIOD)
    assert distances.min() >= 2


def test_every_bit_has_a_sinusoid_in_every_band() -> None:
    frequencies = Pattern(a_key()).frequencies_BJ2
    radii = np.hypot(frequencies[..., 0], frequencies[..., 1])
    assert (radii[:, :-1].max(0) <= radii[:, 1:].min(0)).all()


@pytest.mark.parametrize("shape", [(512, 512), (130, 700), (140, 1600)])
def test_amplitudes_on_the_lattice_are_those_of_a_spectrum(shape: tuple[int, int]) -> None:
    pattern = Pattern(a_key())
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for subset in SUBSETS:
        found = pattern.amplitudes(image, subset)
        expected = Spectrum(image).amplitudes(pattern.frequencies_BJ2[:, subset])
        assert np.abs(found - expected).max() < 2e-3 * expected.std()


def test_agreements_are_the_sums_of_bits_at_every_origin() -> None:
    pattern, random = Pattern(a_key()), np.random.default_rng(0)
    for subset in SUBSETS:
        real, imaginary = random.normal(size=(2, NUM_BITS, len(subset)))
        values = real + 1j * imaginary
        agreements = pattern.agreements(values, subset)
        for origin in random.integers(0, PERIOD, (20, 2)):
            expected = pattern.bits(values, subset, origin.astype(float)).sum()
            assert agreements[tuple(origin)] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("subset", SUBSETS)
def test_energies_are_the_sums_of_squares_at_every_origin(subset: Subset) -> None:
    pattern, random = Pattern(a_key()), np.random.default_rng(5)
    real, imaginary = random.normal(size=(2, NUM_BITS, len(subset)))
    values = real + 1j * imaginary
    energies = pattern.energies(values, subset)
    for origin in random.integers(0, PERIOD, (20, 2)):
        expected = (pattern.bits(values, subset, origin.astype(float)) ** 2).sum()
        assert energies[tuple(origin)] == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("shape", [(200, 300), (700, 520)])
def test_a_plane_holds_its_amplitudes(shape: tuple[int, int]) -> None:
    pattern = Pattern(a_key())
    amplitudes = np.exp(1j * pattern.phases_BJ)
    found = Spectrum(pattern.plane(amplitudes, SUBSETS[0], *shape)).amplitudes(pattern.frequencies_BJ2)
    agreement = (found * amplitudes.conj()).real / (shape[0] * shape[1] / 2)
    assert agreement.mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1.0), (9.7, 0.83), (-31, 1.32), (77, 0.61)])
def test_power_reveals_rotation_and_scale(degrees: float, scale: float) -> None:
    pattern = Pattern(a_key())
    search = PolarSearch(pattern, (0.5, 1.7))
    geometry = Geometry(math.radians(degrees), math.log(scale))
    frequencies = geometry.bend(pattern.frequencies_BJ2).reshape(-1, 2)
    y, x = np.mgrid[:256, :256] - 127.5
    plane = sum(
        np.cos(2 * np.pi * (f[0] * y + f[1] * x) + phase)
        for f, phase in zip(frequencies[::4], pattern.phases_BJ.ravel()[::4], strict=True)
    )
    spectrum = Spectrum(plane + np.random.default_rng(0).normal(size=plane.shape) * 20)
    resemblance = search.resemblances(np.minimum(spectrum.excess(search.frequencies_AR2), 6))[SUBSETS[0]]
    found = search.geometry(*divmod(int(resemblance.argmax()), resemblance.shape[1]))
    assert math.remainder(found.angle - geometry.angle, math.pi) == pytest.approx(0, abs=0.01)
    assert found.log_scale == pytest.approx(geometry.log_scale, abs=0.015)
