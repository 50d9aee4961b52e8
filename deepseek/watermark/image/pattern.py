"""The pattern that a mark adds to an image: eight sinusoids per bit, at frequencies and phases derived from the key.

A bit determines the sign of its sinusoids. The frequencies lie on a lattice, so the pattern repeats every 512 units. A
unit is one pixel, or more than one in images larger than 512 x 512. In each image, the pattern starts at a different
*origin*. No signal is spent on synchronization: the power spectrum reveals rotation and scale, and products of the
sinusoids' amplitudes reveal the origin (docs/decisions/0010).

    Axes of arrays:    B  bits (127)    J  sinusoids of a bit (8)    A, R  angles and radii
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from deepseek.watermark.arrays import Complex, Real, uniforms
from deepseek.watermark.image.bch_code import NUM_BITS
from deepseek.watermark.keys import WatermarkKey

PERIOD = 512
NUM_SINUSOIDS = 8
Subset = range
SUBSETS: tuple[Subset, ...] = (range(8), range(3), range(5, 8))
"""Subsets of a bit's sinusoids that a mark may use: all; the three coarsest, which survive compression in drawings; or
the three finest, with which textures interfere least. If an image allows only a weak mark, each sinusoid is stronger if
only three are used."""

LOWEST, HIGHEST = 0.035, 0.27
"""Lowest and highest frequency of a sinusoid, in cycles per unit. Image content interferes with lower frequencies, and
compression removes higher ones."""

NUM_ANGLES = 768
RADIUS_STEP = 0.006
"""Resolution of the polar map in `PolarSearch`: number of angles per half turn, and log ratio of successive radii."""

_DENSITY = 1.5  # puts more sinusoids at low frequencies, where the marks of smooth images survive compression
_SEPARATION = 2


@dataclass(frozen=True)
class Geometry:
    """Rotation and scale of the pattern in an image.

    Attributes:
        angle: Rotation from the x-axis towards the y-axis, in radians.
        log_scale: Natural logarithm of the scale, which is in pixels per unit.
    """

    angle: float = 0.0
    log_scale: float = 0.0

    def bend(self, frequencies: Real) -> Real:
        """Converts frequencies from cycles per pattern unit to cycles per pixel. The last axis holds y and x."""
        cosine = math.cos(self.angle) * math.exp(-self.log_scale)
        sine = math.sin(self.angle) * math.exp(-self.log_scale)
        y, x = frequencies[..., 0], frequencies[..., 1]
        return np.stack([y * cosine + x * sine, x * cosine - y * sine], -1)


class Pattern:
    """The pattern of a key. Immutable, thread-safe.

    Attributes:
        frequencies_BJ2: Frequencies in cycles per unit, (127, 8, 2). The last axis holds y and x; x is positive. The
            sinusoids of a bit are in different frequency bands, the lowest first.
        phases_BJ: Phases at the origin, (127, 8), in radians.
    """

    def __init__(self, key: WatermarkKey) -> None:
        seed = np.frombuffer(key.subkey("image/pattern", 16), "<u8")
        uniforms = _uniforms(np.random.Philox(key=seed))
        count = NUM_BITS * NUM_SINUSOIDS
        points = np.array(_scatter(uniforms, count))
        # Within each band, the points are assigned to bits in the order in which they were drawn.
        bands_JB = np.argsort((points**2).sum(1), kind="stable").reshape(NUM_SINUSOIDS, NUM_BITS)
        self._lattice_BJ2 = points[np.sort(bands_JB, axis=1).T]
        self.frequencies_BJ2 = self._lattice_BJ2 / PERIOD
        phases = 2 * np.pi * np.array([next(uniforms) for _ in range(count)])
        self.phases_BJ = phases.reshape(NUM_BITS, NUM_SINUSOIDS)
        self._tables = {subset: self._products(subset) for subset in SUBSETS}

    def turn(self, values_BJ: Complex, subset: Subset, origin: Real) -> Complex:
        """Returns amplitudes without the phases that an origin adds. The origin is an array of y and x, in units."""
        return np.asarray(values_BJ * np.exp(-2j * np.pi * (self.frequencies_BJ2[:, subset] @ origin)))

    def plane(self, amplitudes_BJ: Complex, subset: Subset, height: int, width: int) -> Real:
        """Returns the real part of the sum of sinusoids a exp(2 pi i f (u - centre)) with complex amplitudes a.

        Here f is the frequency of a sinusoid, and u a position. The result has shape (height, width), with one pixel
        per unit.
        """
        centre = np.array([(height - 1) / 2, (width - 1) / 2])
        spectrum = np.zeros((PERIOD, PERIOD // 2 + 1), np.complex64)
        rows, columns = np.moveaxis(self._lattice_BJ2[:, subset], -1, 0)
        spectrum[rows, columns] = self.turn(amplitudes_BJ, subset, centre) * (PERIOD * PERIOD / 2)
        period = np.fft.irfft2(spectrum, s=(PERIOD, PERIOD))
        repeats = (math.ceil(height / PERIOD), math.ceil(width / PERIOD))
        return np.tile(period, repeats)[:height, :width]

    def amplitudes(self, image_HW: Real, subset: Subset) -> Complex:
        """Returns the sinusoids' amplitudes in an image.

        The amplitude at a frequency f is the sum over all pixels of the pixel times exp(-2 pi i f (u - centre)), where
        u is the position of the pixel.

        Args:
            image_HW: Image with one pixel per unit, (H, W).
            subset: Sinusoids to measure.

        Returns:
            Complex amplitudes, (127, 8 or 3).
        """
        height, width = image_HW.shape
        rows, columns = math.ceil(height / PERIOD), math.ceil(width / PERIOD)
        whole = np.zeros((rows * PERIOD, columns * PERIOD), np.float32)
        whole[:height, :width] = image_HW
        # At frequencies of the lattice, pixels that are one period apart are equivalent, so they are added first.
        folded = whole.reshape(rows, PERIOD, columns, PERIOD).sum((0, 2)) if rows * columns > 1 else whole
        spectrum = np.fft.fft(np.fft.rfft(folded)[:, : math.ceil(HIGHEST * PERIOD) + 1], axis=0)
        y, x = np.moveaxis(self._lattice_BJ2[:, subset], -1, 0)
        return self.turn(spectrum[y, x], subset, -np.array([(height - 1) / 2, (width - 1) / 2]))

    def agreements(self, values_BJ: Complex, subset: Subset) -> Real:
        """Returns how well amplitudes agree with a mark whose bits are all 1, for every origin.

        Args:
            values_BJ: Amplitudes without this pattern's phases, (127, 8 or 3).
            subset: Sinusoids of the amplitudes.

        Returns:
            sum_b Re sum_j v_bj exp(-2 pi i f_bj d), where v are the values and f the frequencies, for every origin d,
            (512, 512), indexed by the origin's y and x in units.
        """
        spectrum = np.zeros((PERIOD, PERIOD // 2 + 1), np.complex64)
        rows, columns = np.moveaxis(self._lattice_BJ2[:, subset], -1, 0)
        spectrum[rows, columns] = values_BJ.conj() * (PERIOD * PERIOD / 2)
        return np.fft.irfft2(spectrum, s=(PERIOD, PERIOD))

    def _products(
        self, subset: Subset
    ) -> tuple[list[npt.NDArray[np.intp]], npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
        """Returns the tables that `energies` needs for a subset of sinusoids.

        They are the pairs of sinusoids to multiply, a mask of the products that are mirrored, and the index of every
        product in the flattened spectrum.
        """
        pairs = [*np.triu_indices(len(subset), 1), *np.triu_indices(len(subset))]
        lattice = self._lattice_BJ2[:, subset]
        differences = lattice[:, pairs[0]] - lattice[:, pairs[1]]
        sums = lattice[:, pairs[2]] + lattice[:, pairs[3]]
        # A sum beyond the highest frequency of the lattice is an alias of the frequency one period away.
        where = (np.concatenate([differences, sums], 1) + PERIOD // 2) % PERIOD - PERIOD // 2
        mirrored = where[..., 1] < 0
        where = np.where(mirrored[..., None], -where, where)
        return pairs, mirrored, (where[..., 0] % PERIOD * (PERIOD // 2 + 1) + where[..., 1]).ravel()

    def energies(self, values_BJ: Complex, subset: Subset) -> Real:
        """Returns the energy of all bits, sum_b (Re sum_j v_bj exp(-2 pi i f_bj d))^2, for every origin d.

        Here v are the values and f the frequencies. The energy is a trigonometric polynomial in d. Its coefficients are
        products of the values of two sinusoids of one bit, so one inverse Fourier transform computes the energies for
        all origins.

        Args:
            values_BJ: Amplitudes without this pattern's phases, (127, 8 or 3).
            subset: Sinusoids of the amplitudes.

        Returns:
            Energies, (512, 512), indexed by the origin's y and x in units.
        """
        pairs, mirrored_BK, where = self._tables[subset]
        differences = values_BJ[:, pairs[0]] * values_BJ[:, pairs[1]].conj()
        sums = values_BJ[:, pairs[2]] * values_BJ[:, pairs[3]]
        sums[:, pairs[2] == pairs[3]] *= 0.5
        products = np.concatenate([differences, sums], 1)
        # A sum over exp(-2 pi i k d) is a forward transform; the inverse transform of the conjugates has the same
        # real part.
        products = np.where(mirrored_BK, products, products.conj()).ravel()
        size = PERIOD * (PERIOD // 2 + 1)
        real, imaginary = np.bincount(where, products.real, size), np.bincount(where, products.imag, size)
        spectrum = (real + 1j * imaginary).reshape(PERIOD, -1)
        # An inverse transform to reals counts every column except the first twice. It uses only the Hermitian part of
        # the first column.
        spectrum[:, 1:] *= 0.5
        spectrum[:, 0] = (spectrum[:, 0] + np.roll(spectrum[::-1, 0], 1).conj()) / 2
        spectrum *= PERIOD * PERIOD
        constant = 0.5 * (np.abs(values_BJ) ** 2).sum()
        return np.fft.irfft2(spectrum.astype(np.complex64), s=(PERIOD, PERIOD)) + np.float32(constant)

    def bits(self, values_BJ: Complex, subset: Subset, origin: Real) -> Real:
        """Returns the soft bits at an origin, (127,): positive where a bit is probably 1."""
        return np.asarray(self.turn(values_BJ, subset, origin).real.sum(1))


class PolarSearch:
    """Compares an image's power spectrum with a pattern at all angles and a range of scales. Immutable, thread-safe.

    The polar map holds the powers by angle and logarithm of the frequency. In this map, rotating or scaling the pattern
    only shifts its powers. So one correlation compares all angles and scales, as in Fourier-Mellin registration
    (O'Ruanaidh and Pun 1998).

    Args:
        pattern: Pattern to search for.
        scales: Smallest and largest scale to search, in pixels per unit.
    """

    def __init__(self, pattern: Pattern, scales: tuple[float, float]) -> None:
        self._least_radius = LOWEST / scales[1]
        self._most_log_scale = math.log(scales[1])
        self._num_scales = int(math.log(scales[1] / scales[0]) / RADIUS_STEP)
        self._num_radii = int(math.log(min(0.5, HIGHEST / scales[0]) / self._least_radius) / RADIUS_STEP)
        size = self._num_radii + int(math.log(HIGHEST / LOWEST) / RADIUS_STEP) + 2
        self._shape = (NUM_ANGLES, size + size % 2)
        self._templates = {subset: self._template(pattern.frequencies_BJ2[:, subset]) for subset in SUBSETS}

    def _template(self, frequencies: Real) -> Complex:
        y, x = frequencies[..., 0], frequencies[..., 1]
        angles = np.rint(np.arctan2(y, x) / np.pi * NUM_ANGLES).astype(int) % NUM_ANGLES
        radii = np.rint(np.log(np.hypot(y, x) / LOWEST) / RADIUS_STEP).astype(int)
        template_AR = np.zeros(self._shape, np.float32)
        np.add.at(template_AR, (angles, radii), 1)
        return np.fft.rfft2(template_AR).conj()

    @property
    def frequencies_AR2(self) -> Real:
        """Frequencies of the polar map in cycles per pixel, (angles, radii, 2). The last axis holds y and x, x >= 0."""
        return _polar_frequencies(self._least_radius, self._num_radii)

    def resemblances(self, powers_AR: Real) -> dict[Subset, Real]:
        """Returns the correlation of an image's powers with the pattern, as one array per subset of sinusoids.

        Rows are angles, over half a turn; columns are scales, largest first.

        Args:
            powers_AR: Power at each of `frequencies_AR2`, relative to the mean power at nearby frequencies.
        """
        map_AR = np.zeros(self._shape, np.float32)
        map_AR[:, : self._num_radii] = powers_AR - powers_AR.mean(0, keepdims=True)
        transform = np.fft.rfft2(map_AR)
        return {
            subset: np.fft.irfft2(transform * template, s=self._shape)[:, : self._num_scales]
            for subset, template in self._templates.items()
        }

    def geometry(self, row: int, column: int) -> Geometry:
        """Returns the geometry that a row and a column of `resemblances` represent."""
        return Geometry(row * np.pi / NUM_ANGLES, self._most_log_scale - column * RADIUS_STEP)


@cache
def _polar_frequencies(least_radius: float, num_radii: int) -> Real:
    """Returns the frequencies of a polar map, which are the same for all keys."""
    angles = np.arange(NUM_ANGLES) / NUM_ANGLES * np.pi
    radii = least_radius * np.exp(np.arange(num_radii) * RADIUS_STEP)
    directions = np.stack([np.sin(angles), np.cos(angles)], -1)
    directions[directions[:, 1] < 0] *= -1  # the spectrum of a real image is symmetric
    return np.asarray(directions[:, None] * radii[:, None])


def _uniforms(philox: np.random.Philox) -> Iterator[float]:
    """Yields an endless sequence of uniform numbers in [0, 1)."""
    while True:
        yield from uniforms(philox.random_raw(1024))


# This function rounds floating-point results to integers. Two machines may round a result differently if it is almost
# halfway between two integers, which happens for about one key in 1e12.
def _scatter(uniforms: Iterator[float], count: int) -> list[tuple[int, int]]:
    """Returns `count` lattice points in the right half of the frequency band, no two of them adjacent."""
    taken = np.zeros((PERIOD + 1, PERIOD + 1), bool)
    points: list[tuple[int, int]] = []
    while len(points) < count:
        radius = PERIOD * (LOWEST + (HIGHEST - LOWEST) * next(uniforms) ** _DENSITY)
        angle = np.pi * (next(uniforms) - 0.5)
        y, x = round(radius * math.sin(angle)), round(radius * math.cos(angle))
        row, column = y + PERIOD // 2, x + 2
        near = taken[row - _SEPARATION + 1 : row + _SEPARATION, column - _SEPARATION + 1 : column + _SEPARATION]
        if x >= 1 and not near.any():
            taken[row, column] = True
            points.append((y, x))
    return points
