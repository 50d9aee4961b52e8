"""The pattern that a key puts into images: sinusoids, eight a bit, whose frequencies and phases only the key tells.

A bit is the sign of its sinusoids. All lie on a lattice, so the pattern repeats after 512 of its units, which is about
the size of an image: a unit is a pixel, or more in images of more than 512 x 512. Each image gets the pattern from
another *origin*, the best of many that are drawn at random. So nothing repeats within an image, and what many images
have in common is not the pattern, since it averages out.

Nothing in it is there for synchronisation alone; what carries the bits is enough:

- Power at a sinusoid's frequency tells neither bit nor origin. Rotation and scale turn and stretch frequencies, which
  is a shift in polar coordinates with a logarithmic radius, so one correlation compares all of them (`resemblances`),
  as in Fourier-Mellin registration (O'Ruanaidh and Pun 1998).
- Products of two sinusoids of one bit have lost its sign, and their phases tell the origin. The *energy* of all bits,
  sum_b (Re sum_j y_bj exp(-2 pi i f_bj d))^2, is a trigonometric polynomial in the origin d with these products for
  coefficients, so one inverse transform tells it for every origin (`energies`).

    B  bits (127)    J  sinusoids of a bit (8)    P  period (512)    A, R  angles and radii
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from deepseek.watermark.arrays import Complex, Real, uniforms
from deepseek.watermark.image.code import NUM_BITS
from deepseek.watermark.keys import WatermarkKey

PERIOD = 512
NUM_SINUSOIDS = 8
Part = range
PARTS: tuple[Part, ...] = (range(8), range(3), range(5, 8))
"""Which sinusoids of a bit a mark uses: all, or, in images that leave it little room, three that stand out the more.
The coarsest are what compression leaves of drawings, and the finest are what textures hide least."""

LOWEST, HIGHEST = 0.035, 0.27
"""The band, cycles a unit: lower ones drown in what images show, higher ones in what compression throws away."""

NUM_ANGLES = 768
RADIUS_STEP = 0.006
"""Steps of the polar map: half a turn over `NUM_ANGLES`, and this much of a radius."""

_DENSITY = 1.5  # more sinusoids at the low end, which carry the marks of smooth images through compression
_SEPARATION = 2


@dataclass(frozen=True)
class Geometry:
    """Where the pattern lies in an image.

    Attributes:
        angle: How far it was turned, radians, from the x-axis to the y-axis.
        log_scale: Natural logarithm of the pixels a unit.
    """

    angle: float = 0.0
    log_scale: float = 0.0

    def bend(self, frequencies: Real) -> Real:
        """Frequencies (..., 2), y and x, cycles a unit, as they are in the image, cycles a pixel."""
        cosine = math.cos(self.angle) * math.exp(-self.log_scale)
        sine = math.sin(self.angle) * math.exp(-self.log_scale)
        y, x = frequencies[..., 0], frequencies[..., 1]
        return np.stack([y * cosine + x * sine, x * cosine - y * sine], -1)


class Pattern:
    """The pattern of a key. Immutable, thread-safe.

    Attributes:
        frequencies_BJ2: (127, 8, 2), y and x, cycles a unit, each from a band of its own, the lowest first; x is above
            0.
        phases_BJ: (127, 8), radians, at the origin.

    Args:
        key: The key.
    """

    def __init__(self, key: WatermarkKey) -> None:
        seed = np.frombuffer(key.subkey("image/pattern", 16), "<u8")
        uniforms = _uniforms(np.random.Philox(key=seed))
        count = NUM_BITS * NUM_SINUSOIDS
        points = np.array(_scatter(uniforms, count))
        # Bits take turns in each band as the points were drawn.
        bands_JB = np.argsort((points**2).sum(1), kind="stable").reshape(NUM_SINUSOIDS, NUM_BITS)
        self._lattice_BJ2 = points[np.sort(bands_JB, axis=1).T]
        self.frequencies_BJ2 = self._lattice_BJ2 / PERIOD
        phases = 2 * np.pi * np.array([next(uniforms) for _ in range(count)])
        self.phases_BJ = phases.reshape(NUM_BITS, NUM_SINUSOIDS)
        self._tables = {part: self._products(part) for part in PARTS}

    def turn(self, values_BJ: Complex, part: Part, origin: Real) -> Complex:
        """Takes from amplitudes of sinusoids the phases that they have by an origin, (2,), y and x, units."""
        return np.asarray(values_BJ * np.exp(-2j * np.pi * (self.frequencies_BJ2[:, part] @ origin)))

    def plane(self, amplitudes_BJ: Complex, part: Part, height: int, width: int) -> Real:
        """The real part of a sum of sinusoids, exp(2 pi i f (u - centre)), with complex amplitudes.

        Returns:
            (height, width), a pixel a unit.
        """
        centre = np.array([(height - 1) / 2, (width - 1) / 2])
        spectrum = np.zeros((PERIOD, PERIOD // 2 + 1), np.complex64)
        rows, columns = np.moveaxis(self._lattice_BJ2[:, part], -1, 0)
        spectrum[rows, columns] = self.turn(amplitudes_BJ, part, centre) * (PERIOD * PERIOD / 2)
        period = np.fft.irfft2(spectrum, s=(PERIOD, PERIOD))
        repeats = (math.ceil(height / PERIOD), math.ceil(width / PERIOD))
        return np.tile(period, repeats)[:height, :width]

    def amplitudes(self, image_HW: Real, part: Part) -> Complex:
        """Amplitudes of the sinusoids in an image, a pixel a unit: sums over pixels, times exp(-2 pi i f (u - centre)).

        Returns:
            (127, 8 or 3).
        """
        height, width = image_HW.shape
        rows, columns = math.ceil(height / PERIOD), math.ceil(width / PERIOD)
        whole = np.zeros((rows * PERIOD, columns * PERIOD), np.float32)
        whole[:height, :width] = image_HW
        # What is a period apart is the same to frequencies of the lattice.
        folded = whole.reshape(rows, PERIOD, columns, PERIOD).sum((0, 2)) if rows * columns > 1 else whole
        spectrum = np.fft.fft(np.fft.rfft(folded)[:, : math.ceil(HIGHEST * PERIOD) + 1], axis=0)
        y, x = np.moveaxis(self._lattice_BJ2[:, part], -1, 0)
        return self.turn(spectrum[y, x], part, -np.array([(height - 1) / 2, (width - 1) / 2]))

    def agreements(self, values_BJ: Complex, part: Part) -> Real:
        """What amplitudes of sinusoids say for all bits together, of which each is taken for 1, for every origin.

        Args:
            values_BJ: (127, 8 or 3), without the phases of this pattern.
            part: Which sinusoids these are.

        Returns:
            (512, 512), by the origin's y and x, units: sum_b Re sum_j y_bj exp(-2 pi i f_bj d).
        """
        spectrum = np.zeros((PERIOD, PERIOD // 2 + 1), np.complex64)
        rows, columns = np.moveaxis(self._lattice_BJ2[:, part], -1, 0)
        spectrum[rows, columns] = values_BJ.conj() * (PERIOD * PERIOD / 2)
        return np.fft.irfft2(spectrum, s=(PERIOD, PERIOD))

    def _products(self, part: Part) -> tuple[list[npt.NDArray[np.intp]], npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
        """Pairs of sinusoids for `energies`; which products are taken conjugate; where on the lattice each belongs."""
        pairs = [*np.triu_indices(len(part), 1), *np.triu_indices(len(part))]
        lattice = self._lattice_BJ2[:, part]
        differences = lattice[:, pairs[0]] - lattice[:, pairs[1]]
        sums = lattice[:, pairs[2]] + lattice[:, pairs[3]]
        # Sums may lie beyond what the lattice resolves, where they are the same as what is a period away.
        where = (np.concatenate([differences, sums], 1) + PERIOD // 2) % PERIOD - PERIOD // 2
        mirrored = where[..., 1] < 0
        where = np.where(mirrored[..., None], -where, where)
        return pairs, mirrored, (where[..., 0] % PERIOD * (PERIOD // 2 + 1) + where[..., 1]).ravel()

    def energies(self, values_BJ: Complex, part: Part) -> Real:
        """The energy of all bits for every origin.

        Args:
            values_BJ: (127, 8 or 3), amplitudes of sinusoids without their phases of this pattern.
            part: Which sinusoids these are.

        Returns:
            (512, 512), by the origin's y and x, units.
        """
        pairs, mirrored_BK, where = self._tables[part]
        differences = values_BJ[:, pairs[0]] * values_BJ[:, pairs[1]].conj()
        sums = values_BJ[:, pairs[2]] * values_BJ[:, pairs[3]]
        sums[:, pairs[2] == pairs[3]] *= 0.5
        products = np.concatenate([differences, sums], 1)
        # exp(-2 pi i k d) is what a forward transform does; an inverse one does it to conjugates.
        products = np.where(mirrored_BK, products, products.conj()).ravel()
        size = PERIOD * (PERIOD // 2 + 1)
        real, imaginary = np.bincount(where, products.real, size), np.bincount(where, products.imag, size)
        spectrum = (real + 1j * imaginary).reshape(PERIOD, -1)
        # An inverse transform to reals counts these columns twice, and of the first its symmetric part.
        spectrum[:, 1:] *= 0.5
        spectrum[:, 0] = (spectrum[:, 0] + np.roll(spectrum[::-1, 0], 1).conj()) / 2
        spectrum *= PERIOD * PERIOD
        constant = 0.5 * (np.abs(values_BJ) ** 2).sum()
        return np.fft.irfft2(spectrum.astype(np.complex64), s=(PERIOD, PERIOD)) + np.float32(constant)

    def bits(self, values_BJ: Complex, part: Part, origin: Real) -> Real:
        """How far each bit is rather 1, (127,), at an origin."""
        return np.asarray(self.turn(values_BJ, part, origin).real.sum(1))


class PolarSearch:
    """Compares the power of an image with a pattern's for all angles and a range of scales. Immutable, thread-safe.

    Args:
        pattern: The pattern.
        scales: The least and the most pixels a unit.
    """

    def __init__(self, pattern: Pattern, scales: tuple[float, float]) -> None:
        self._least_radius = LOWEST / scales[1]
        self._most_log_scale = math.log(scales[1])
        self._num_scales = int(math.log(scales[1] / scales[0]) / RADIUS_STEP)
        self._num_radii = int(math.log(min(0.5, HIGHEST / scales[0]) / self._least_radius) / RADIUS_STEP)
        size = self._num_radii + int(math.log(HIGHEST / LOWEST) / RADIUS_STEP) + 2
        self._shape = (NUM_ANGLES, size + size % 2)
        self._templates = {part: self._template(pattern.frequencies_BJ2[:, part]) for part in PARTS}

    def _template(self, frequencies: Real) -> Complex:
        y, x = frequencies[..., 0], frequencies[..., 1]
        angles = np.rint(np.arctan2(y, x) / np.pi * NUM_ANGLES).astype(int) % NUM_ANGLES
        radii = np.rint(np.log(np.hypot(y, x) / LOWEST) / RADIUS_STEP).astype(int)
        template_AR = np.zeros(self._shape, np.float32)
        np.add.at(template_AR, (angles, radii), 1)
        return np.fft.rfft2(template_AR).conj()

    @property
    def frequencies_AR2(self) -> Real:
        """(angles, radii, 2), y and x, cycles a pixel: where the map is to be sampled; x is not below 0."""
        return _polar_frequencies(self._least_radius, self._num_radii)

    def resemblances(self, powers_AR: Real) -> dict[Part, Real]:
        """Compares, by the part of a pattern. Rows are angles over half a turn, columns scales from the largest down.

        Args:
            powers_AR: Power above that around it at `frequencies_AR2`.
        """
        map_AR = np.zeros(self._shape, np.float32)
        map_AR[:, : self._num_radii] = powers_AR - powers_AR.mean(0, keepdims=True)
        transform = np.fft.rfft2(map_AR)
        return {
            part: np.fft.irfft2(transform * template, s=self._shape)[:, : self._num_scales]
            for part, template in self._templates.items()
        }

    def geometry(self, row: int, column: int) -> Geometry:
        """What a place in `resemblances` stands for."""
        return Geometry(row * np.pi / NUM_ANGLES, self._most_log_scale - column * RADIUS_STEP)


@cache
def _polar_frequencies(least_radius: float, num_radii: int) -> Real:
    """The frequencies of a polar map, the same for all keys."""
    angles = np.arange(NUM_ANGLES) / NUM_ANGLES * np.pi
    radii = least_radius * np.exp(np.arange(num_radii) * RADIUS_STEP)
    directions = np.stack([np.sin(angles), np.cos(angles)], -1)
    directions[directions[:, 1] < 0] *= -1  # a spectrum of reals is the same on both sides
    return np.asarray(directions[:, None] * radii[:, None])


def _uniforms(philox: np.random.Philox) -> Iterator[float]:
    """Endless uniforms from 0 to below 1."""
    while True:
        yield from uniforms(philox.random_raw(1024))


# Its floating point is rounded to whole numbers, and to others on another machine only where a value lies half-way
# within the last digits: about once in 1e12 keys.
def _scatter(uniforms: Iterator[float], count: int) -> list[tuple[int, int]]:
    """Points of the lattice in the right half of the band, no two of them next to each other."""
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
