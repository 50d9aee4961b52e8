"""Finds marks in images that may have been scaled, turned and cropped.

A *place* is a geometry and an origin. First the places are tried at which a mark lies that was only resized; then, by
`PolarSearch`, the geometries in which the image has power where a pattern has it. At each, one transform tells the
best origin (`Pattern.energies`).

p-values need no model of images. A place's geometry is chosen by powers alone, and under the null hypothesis (no mark,
or one of another key) the phases of the key are independent uniforms whatever the image is. So the energy of all bits
has a distribution that is known (`log_energy_tail`). A search compares its places by gamma distributions of the same
mean, variance and skewness, which are close and quick to compute; the p-value is that of the likeliest place, times the
number of places, and by the gamma distribution where an id is read, when it is beyond doubt anyway. An id is held
against a bound instead: a sum of cosines w cos(phi) exceeds a with a probability of at most prod(I_0(t w)) exp(-t a)
for any t (Chernoff, since E exp(t cos(phi)) = I_0(t)), times the number of ids and of places, those included among
which a place was refined.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from deepseek.watermark.arrays import Complex, Real, check_pixels
from deepseek.watermark.ids import ID_BITS
from deepseek.watermark.image.code import NUM_BITS, BchCode
from deepseek.watermark.image.filters import local_mean
from deepseek.watermark.image.marker import MIN_SIDE, Pixels, luma, reduced
from deepseek.watermark.image.pattern import (
    HIGHEST,
    NUM_ANGLES,
    PARTS,
    PERIOD,
    RADIUS_STEP,
    Geometry,
    Part,
    Pattern,
    PolarSearch,
)
from deepseek.watermark.image.payload import MAC_BITS, Payload
from deepseek.watermark.image.spectrum import MOST_EXCESS, Spectrum, capped, evened, synthesised
from deepseek.watermark.keys import WatermarkKey
from deepseek.watermark.tail import log_energy_tail, log_erlang_tail
from deepseek.watermark.verdict import LOG_MARKED, Verdict, judged

SCALES = (0.5, 1.7)
"""Pixels a unit that are searched."""

_NUM_ALIGNED = 2
_NUM_CANDIDATES = 5
_NUM_PLACES = (_NUM_ALIGNED + 2 * _NUM_CANDIDATES) * len(PARTS) * PERIOD**2
_NUM_REFINED = 16**4
"""Places to which one can be refined, as steps go."""

_INDEPENDENT = {part: share * PERIOD**2 for part, share in zip(PARTS, (1.0, 0.6, 0.95), strict=True)}
"""Energies at neighbouring origins go together, those of coarse sinusoids most: so many are like independent ones, by
what the largest of them is among random phases.
"""

_ID_SHARE = 0.01
"""Part of the false alarms that is left to the id (Bonferroni, with weights)."""

_LEAD = -LOG_MARKED - MAC_BITS * math.log(2)
"""Nats by which a word has to be likelier than the next, so that with the hash less than one reading in a million of a
mark tells a wrong id.
"""

_LEAST_SIDE = 64
_HEAT_RADIUS = 16
_HOT = 0.35
_CELL = 8
_NORMAL = 10_000  # shape of a gamma distribution that is as good as normal
_STEPS = (0.0016, 0.004, 0.4, 0.4)  # angle, logarithm of the scale, origin
_REFINABLE = 1.1  # by how much frequencies may grow where a place is refined


@dataclass(frozen=True)
class Region:
    """A rectangle in an image, pixels; right and bottom are just outside."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class ImageDetection:
    """What an image tells of a mark.

    Attributes:
        verdict: Whether it is marked.
        log_p: Natural logarithm of the p-value.
        id: The id; None without a mark, or if too little is left of it to read it.
        geometry: How the mark lies in the image; None without one.
        region: Where the mark was found; None without an id, or if that was not asked for.
        heat: (units, units), how much of a mark each part holds, 1 on average; as the region.
    """

    verdict: Verdict
    log_p: float
    id: int | None = None
    geometry: Geometry | None = None
    region: Region | None = None
    heat: Real | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class _Place:
    geometry: Geometry
    part: Part
    origin: Real
    log_p: float  # of its energy, before the number of places


class ImageDetector:
    """Finds marks of a key. Thread-safe.

    Args:
        key: The key.
    """

    def __init__(self, key: WatermarkKey) -> None:
        self._pattern, self._payload, self._code = Pattern(key), Payload(key), BchCode()
        self._search = PolarSearch(self._pattern, SCALES)

    def detect(self, pixels: Pixels, *, search: bool = True, locate: bool = False) -> ImageDetection:
        """Looks for a mark.

        Args:
            pixels: The image, of any size; in less than 64 pixels a side nothing is looked for.
            search: Whether also where it may have been turned or cropped.
            locate: Whether to tell the region.

        Raises:
            InvalidArgument: BAD_VALUE if these are not pixels.
        """
        pixels = check_pixels(pixels)
        height, width = pixels.shape[:2]
        if min(height, width) < _LEAST_SIDE:
            return ImageDetection(Verdict.INCONCLUSIVE, 0.0)
        units = luma(reduced(pixels))
        image, _ = evened(units)
        # Marked as it is; or at 512 x 512 units or more, and made smaller.
        aligned = {Geometry(), Geometry(0.0, 0.5 * math.log(units.size / PERIOD**2))}
        num_places = (len(aligned) + 2 * _NUM_CANDIDATES * search) * sum(_INDEPENDENT.values())
        place, found = self._best(image, aligned, search, num_places)
        log_p = min(0.0, _corrected(place.log_p, num_places) - math.log1p(-_ID_SHARE))
        if found is None:
            is_enough = search and min(height, width) >= MIN_SIDE and image.std() > 0.05
            return ImageDetection(judged(log_p, is_enough=is_enough), log_p)
        message, log_p_id = found
        log_p = min(log_p, log_p_id - math.log(_ID_SHARE))
        scale = 0.5 * math.log(height * width / units.size)
        geometry = Geometry(place.geometry.angle, place.geometry.log_scale + scale)
        if not locate:
            return ImageDetection(Verdict.MARKED, log_p, message, geometry)
        heat = self._heat(image, place, message)
        return ImageDetection(Verdict.MARKED, log_p, message, geometry, _region(heat, height, width), heat)

    def _best(
        self, image: Real, aligned: Collection[Geometry], search: bool, num_places: float
    ) -> tuple[_Place, tuple[int, float] | None]:
        """The likeliest place, and the id there with its p-value, if one can be read."""
        # Most marks are found without a search, and without the frequencies that only a search asks for.
        least_scale = min(math.exp(geometry.log_scale) for geometry in aligned)
        near, whole = Spectrum(image, min(0.5, _REFINABLE * HIGHEST / least_scale)), Spectrum(image)
        tried: Iterable[tuple[Spectrum, Geometry, Part]] = itertools.product([near], aligned, PARTS)
        if search:
            tried = itertools.chain(tried, ((whole, *candidate) for candidate in self._candidates(whole)))
        best = _Place(Geometry(), PARTS[0], np.zeros(2), 0.0)
        for spectrum, geometry, part in tried:
            place = self._place(spectrum, geometry, part)
            best = min(best, place, key=lambda place: place.log_p)
            # What is beyond doubt ends the search, if it can be read.
            if _corrected(place.log_p, num_places) < LOG_MARKED and (read := self._read_near(spectrum, place)):
                return read
        return self._read_near(whole, best) or (self._exact(whole, best), None)

    def _read_near(self, spectrum: Spectrum, place: _Place) -> tuple[_Place, tuple[int, float]] | None:
        """What a place says, or else the one that it is refined to; None if neither can be read."""
        if (found := self._read(spectrum, place, _NUM_PLACES)) is not None:
            return place, found
        place = self._refined(spectrum, place)
        found = self._read(spectrum, place, _NUM_PLACES * _NUM_REFINED)
        return None if found is None else (place, found)

    def _candidates(self, spectrum: Spectrum) -> Iterator[tuple[Geometry, Part]]:
        """Geometries that powers speak for, the likeliest first; each both ways up, which powers do not tell."""
        excess_AR = np.minimum(spectrum.excess(self._search.frequencies_AR2), MOST_EXCESS)
        fine = []
        for part, resemblance in self._search.resemblances(excess_AR).items():
            deviation = 1 / math.sqrt(NUM_BITS * len(part))
            for _ in range(_NUM_CANDIDATES):
                row, column = divmod(int(resemblance.argmax()), resemblance.shape[1])
                score, geometry = self._between(spectrum, self._search.geometry(row, column), part)
                fine.append((score / deviation, geometry, part))
                rows = np.arange(row - 2, row + 3) % len(resemblance)
                resemblance[rows, max(0, column - 2) : column + 3] = -np.inf
        for _, geometry, part in sorted(fine, key=lambda candidate: -candidate[0]):
            yield geometry, part
            yield Geometry(geometry.angle + math.pi, geometry.log_scale), part

    def _between(self, spectrum: Spectrum, geometry: Geometry, part: Part) -> tuple[float, Geometry]:
        """The best geometry between the steps of the polar map, with its mean excess, 0 on average without a mark."""
        steps = np.linspace(-1, 1, 5)
        nearby = [
            Geometry(geometry.angle + turn * math.pi / NUM_ANGLES, geometry.log_scale + stretch * RADIUS_STEP)
            for turn in steps
            for stretch in steps
        ]
        frequencies = np.stack([near.bend(self._pattern.frequencies_BJ2[:, part]) for near in nearby])
        scores = np.minimum(spectrum.excess(frequencies), MOST_EXCESS).mean((1, 2))
        best = int(scores.argmax())
        return float(scores[best]) - 1, nearby[best]

    def _values(self, spectrum: Spectrum, geometry: Geometry, part: Part) -> Complex:
        """Amplitudes of the sinusoids over the noise around, without the phases that they have of the pattern."""
        frequencies_BJ2 = geometry.bend(self._pattern.frequencies_BJ2[:, part])
        noise_BJ = np.sqrt(spectrum.noise(frequencies_BJ2) * spectrum.num_pixels)
        return capped(spectrum.amplitudes(frequencies_BJ2) / noise_BJ * np.exp(-1j * self._pattern.phases_BJ[:, part]))

    def _place(self, spectrum: Spectrum, geometry: Geometry, part: Part) -> _Place:
        """The best origin for a geometry."""
        values_BJ = self._values(spectrum, geometry, part)
        energies = self._pattern.energies(values_BJ, part)
        best = int(energies.argmax())
        log_p = _log_energy_tail(float(energies.flat[best]), values_BJ)
        return _Place(geometry, part, np.array(divmod(best, PERIOD), np.float64), log_p)

    def _exact(self, spectrum: Spectrum, place: _Place) -> _Place:
        """A place with the p-value of its energy, which takes too long to compute for each of a search."""
        values_BJ = self._values(spectrum, place.geometry, place.part)
        energy = float((self._pattern.bits(values_BJ, place.part, place.origin) ** 2).sum())
        return replace(place, log_p=log_energy_tail(np.abs(values_BJ), energy))

    def _refined(self, spectrum: Spectrum, place: _Place) -> _Place:
        """The place nearby with the most energy, by steps along each of its four numbers that get smaller."""

        def energy(numbers: Real) -> float:
            values_BJ = self._values(spectrum, Geometry(numbers[0], numbers[1]), place.part)
            return float((self._pattern.bits(values_BJ, place.part, numbers[2:]) ** 2).sum())

        numbers = np.array([place.geometry.angle, place.geometry.log_scale, *place.origin])
        most = energy(numbers)
        for halvings, axis, way in itertools.product(range(4), range(4), (1, -1)):
            step = np.zeros(4)
            step[axis] = way * _STEPS[axis] / 2**halvings
            while (energy_there := energy(numbers + step)) > most:
                most, numbers = energy_there, numbers + step
        return _Place(Geometry(float(numbers[0]), float(numbers[1])), place.part, numbers[2:], place.log_p)

    def _read(self, spectrum: Spectrum, place: _Place, num_places: int) -> tuple[int, float] | None:
        """The id at a place, which is one of several, and the logarithm of its p-value; None if nothing was sealed
        there, or by chance.
        """
        values_BJ = self._values(spectrum, place.geometry, place.part)
        word, other = self._code.decode(self._pattern.bits(values_BJ, place.part, place.origin), 2)
        message = self._payload.open(word.data)
        weights = np.abs(values_BJ).ravel()
        power = float((weights**2).sum())
        # Besides the hash, no other word may come near.
        if message is None or word.agreement**2 - max(0.0, other.agreement) ** 2 <= _LEAD * power:
            return None
        # The best of some t from 2 a / sum(w^2) on, which would be the best one if I_0(t) were exp(t^2 / 4).
        t = 2 * word.agreement / power * np.linspace(1, 2.5, 16)
        chernoff = float((np.log(np.i0(np.outer(t, weights))).sum(1) - t * word.agreement).min())
        log_p = min(0.0, chernoff + ID_BITS * math.log(2) + math.log(num_places))
        return (message, log_p) if log_p - math.log(_ID_SHARE) <= LOG_MARKED else None

    def _heat(self, image_HW: Real, place: _Place, message: int) -> Real:
        """How much of a mark each part of an evened image holds: about 0 where there is none, 1 on average."""
        signs_B1 = 2.0 * self._code.encode(self._payload.seal(message))[:, None] - 1
        frequencies_BJ2 = self._pattern.frequencies_BJ2[:, place.part]
        turns = 2 * np.pi * (frequencies_BJ2 @ place.origin)
        amplitudes_BJ = signs_B1 * np.exp(1j * (self._pattern.phases_BJ[:, place.part] + turns))
        frequencies = place.geometry.bend(frequencies_BJ2).reshape(-1, 2)
        plane = synthesised(amplitudes_BJ.ravel(), frequencies, *image_HW.shape)
        radius = min(_HEAT_RADIUS, (min(image_HW.shape) - 1) // 4)
        heat = local_mean(local_mean(image_HW * plane, radius), radius)
        return np.asarray(heat / max(heat.mean(), 1e-12), np.float64)


def _log_energy_tail(energy: float, values_BJ: Complex) -> float:
    """Natural logarithm of the probability that uniform phases have that energy, at one place.

    A bit is c = sum w cos(phi), whose cumulants are v = sum(w^2) / 2, k4 = -3/8 sum(w^4) and k6 = 5/4 sum(w^6). So c^2
    has the mean v, the variance 2 v^2 + k4 and the third central moment 8 v^3 + 12 v k4 + k6.
    """
    squares_BJ = values_BJ.real**2 + values_BJ.imag**2
    own_B, fourth_B = 0.5 * squares_BJ.sum(1), -0.375 * (squares_BJ**2).sum(1)
    sixth_B = 1.25 * (squares_BJ**3).sum(1)
    variance = float((2 * own_B**2 + fourth_B).sum())
    third = float((8 * own_B**3 + 12 * own_B * fourth_B + sixth_B).sum())
    # A gamma distribution with this skewness, 2 / sqrt(shape).
    shape = min(_NORMAL, max(1, round(4 * variance**3 / third**2))) if third > 0 else _NORMAL
    standard = (energy - float(own_B.sum())) / (math.sqrt(variance) + 1e-30)
    return log_erlang_tail(shape, shape + standard * math.sqrt(shape))


def _corrected(log_p: float, num_places: float) -> float:
    """A p-value times the number of places, in logarithms: 1 - (1 - p)^n."""
    expected = math.exp(min(log_p, 0.0)) * num_places
    return math.log(-math.expm1(-expected)) if expected > 1e-9 else log_p + math.log(num_places)


def _region(heat_HW: Real, height: int, width: int) -> Region:
    """The rectangle around the largest part that is clearly marked."""
    rows, columns = (_edges(length) for length in heat_HW.shape)
    cells = np.add.reduceat(np.add.reduceat(heat_HW, rows[:-1], 0), columns[:-1], 1)
    cells /= np.outer(np.diff(rows), np.diff(columns))
    part = _largest_part(cells >= min(cells.max(), _HOT * np.quantile(cells, 0.9)))
    top, bottom = rows[part[0].min()], rows[part[0].max() + 1]
    left, right = columns[part[1].min()], columns[part[1].max() + 1]
    y, x = height / heat_HW.shape[0], width / heat_HW.shape[1]
    return Region(round(left * x), round(top * y), round(right * x), round(bottom * y))


def _edges(length: int) -> npt.NDArray[np.intp]:
    """Where the cells of a heat map begin along an axis, and where the last ends."""
    return np.append(np.arange(0, length - _CELL // 2, _CELL), length)


def _largest_part(is_hot: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows and columns of the most cells that touch each other."""
    left = set(zip(*map(list, np.nonzero(is_hot)), strict=True))
    largest: list[tuple[int, int]] = []
    while left:
        part = [left.pop()]
        for row, column in part:
            for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if near in left:
                    left.remove(near)
                    part.append(near)
        largest = max(largest, part, key=len)
    rows, columns = np.array(largest).T
    return rows, columns
