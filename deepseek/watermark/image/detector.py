"""Finds marks in images that may have been scaled, rotated and cropped.

A *place* is a hypothesis about the pattern: its geometry (rotation and scale) and its origin. The detector first tries
the geometries that the pattern has if the image was at most resized, then those that `PolarSearch` suggests from the
image's power spectrum. For each geometry, one Fourier transform gives the best origin (`Pattern.energies`). p-values
need no statistical model of images: without a mark, the key's phases are independent of the image
(docs/decisions/0018).
"""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from deepseek.watermark.arrays import Complex, Real, check_pixels
from deepseek.watermark.ids import ID_BITS
from deepseek.watermark.image.bch_code import NUM_BITS, BchCode
from deepseek.watermark.image.filters import local_mean
from deepseek.watermark.image.pattern import (
    HIGHEST,
    NUM_ANGLES,
    PERIOD,
    RADIUS_STEP,
    SUBSETS,
    Geometry,
    Pattern,
    PolarSearch,
    Subset,
)
from deepseek.watermark.image.payload import MAC_BITS, Payload
from deepseek.watermark.image.pixels import MIN_SIDE, Pixels, luma, reduced
from deepseek.watermark.image.spectrum import MOST_EXCESS, Spectrum, clip_excess, normalize_contrast, synthesise
from deepseek.watermark.keys import WatermarkKey
from deepseek.watermark.tail_bounds import log_energy_tail, log_erlang_tail
from deepseek.watermark.verdict import LOG_MARKED, Verdict, judged

SCALES = (0.5, 1.7)
"""Smallest and largest scale to search, in pixels per pattern unit."""

_NUM_ALIGNED = 2
_NUM_CANDIDATES = 5
_NUM_PLACES = (_NUM_ALIGNED + 2 * _NUM_CANDIDATES) * len(SUBSETS) * PERIOD**2
_NUM_REFINED = 16**4
"""Number of places that refinement can reach from one place."""

_INDEPENDENT = {subset: share * PERIOD**2 for subset, share in zip(SUBSETS, (1.0, 0.6, 0.95), strict=True)}
"""Effective number of independent origins, per subset of sinusoids. Energies at neighbouring origins are correlated,
most of all for coarse sinusoids. The numbers are derived from the distribution of the maximum energy over all
origins if phases are random."""

_ID_SHARE = 0.01
"""Share of the false-alarm probability that is allotted to the id (weighted Bonferroni correction)."""

_LEAD = -LOG_MARKED - MAC_BITS * math.log(2)
"""Minimum lead of the best codeword over the second best, in nats of log likelihood. With this lead and the hash
in the payload, fewer than one in a million readings of a mark return a wrong id."""

_LEAST_SIDE = 64
_HEAT_RADIUS = 16
_HOT = 0.35
_CELL = 8
_NORMAL = 10_000  # shape of a gamma distribution that is practically normal
_STEPS = (0.0016, 0.004, 0.4, 0.4)  # initial steps of refinement: angle, logarithm of the scale, origin (y, x)
_REFINABLE = 1.1  # factor by which refinement may increase frequencies


@dataclass(frozen=True)
class Region:
    """A rectangle in an image, in pixels; `right` and `bottom` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class ImageDetection:
    """The result of a detection in an image.

    Attributes:
        verdict: Whether the image is marked.
        log_p: Natural logarithm of the p-value.
        id: Id of the mark; None if there is no mark or its id cannot be read.
        geometry: Rotation and scale of the mark; None if `id` is None.
        region: Region of the mark; None if `id` is None or the region was not requested.
        heat: Strength of the mark around each pattern unit of the image, 1 on average, as an array of shape (height,
            width) in pattern units; None if `region` is None.
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
    subset: Subset
    origin: Real
    log_p: float  # log p-value of the place's energy, not corrected for the number of places


class ImageDetector:
    """Finds the marks of one key. Thread-safe."""

    def __init__(self, key: WatermarkKey) -> None:
        self._pattern, self._payload, self._code = Pattern(key), Payload(key), BchCode()
        self._search = PolarSearch(self._pattern, SCALES)

    def detect(self, pixels: Pixels, *, search: bool = True, locate: bool = False) -> ImageDetection:
        """Searches an image for a mark.

        Args:
            pixels: Image of any size. If a side is shorter than 64 pixels, the verdict is always inconclusive.
            search: Whether to also try rotations, scales and crops.
            locate: Whether to return the region and the heat map.

        Raises:
            InvalidArgument: BAD_VALUE if `pixels` is not an image.
        """
        pixels = check_pixels(pixels)
        height, width = pixels.shape[:2]
        if min(height, width) < _LEAST_SIDE:
            return ImageDetection(Verdict.INCONCLUSIVE, 0.0)
        units = luma(reduced(pixels))
        image, _ = normalize_contrast(units)
        # Either the image was marked at this size, or it was marked at 512 x 512 pixels or more and then scaled down.
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
        """Returns the likeliest place, and the result of `_read` there, which is None if no id is certain."""
        # Most marks are found without a search, and only a search needs the high frequencies.
        least_scale = min(math.exp(geometry.log_scale) for geometry in aligned)
        near, whole = Spectrum(image, min(0.5, _REFINABLE * HIGHEST / least_scale)), Spectrum(image)
        tried: Iterable[tuple[Spectrum, Geometry, Subset]] = itertools.product([near], aligned, SUBSETS)
        if search:
            tried = itertools.chain(tried, ((whole, *candidate) for candidate in self._candidates(whole)))
        best = _Place(Geometry(), SUBSETS[0], np.zeros(2), 0.0)
        for spectrum, geometry, subset in tried:
            place = self._place(spectrum, geometry, subset)
            best = min(best, place, key=lambda place: place.log_p)
            # A certain mark ends the search if its id can be read.
            if _corrected(place.log_p, num_places) < LOG_MARKED and (read := self._read_near(spectrum, place)):
                return read
        return self._read_near(whole, best) or (self._exact(whole, best), None)

    def _read_near(self, spectrum: Spectrum, place: _Place) -> tuple[_Place, tuple[int, float]] | None:
        """Reads the id at a place or, failing that, at the refined place. Returns None if both readings fail."""
        if (found := self._read(spectrum, place, _NUM_PLACES)) is not None:
            return place, found
        place = self._refined(spectrum, place)
        found = self._read(spectrum, place, _NUM_PLACES * _NUM_REFINED)
        return None if found is None else (place, found)

    def _candidates(self, spectrum: Spectrum) -> Iterator[tuple[Geometry, Subset]]:
        """Yields geometries that fit the power spectrum, likeliest first, each with the subset of sinusoids that fits.

        Each geometry is followed by the same geometry rotated by 180 degrees, because the power spectrum cannot
        distinguish the two.
        """
        excess_AR = np.minimum(spectrum.excess(self._search.frequencies_AR2), MOST_EXCESS)
        fine = []
        for subset, resemblance in self._search.resemblances(excess_AR).items():
            deviation = 1 / math.sqrt(NUM_BITS * len(subset))
            for _ in range(_NUM_CANDIDATES):
                row, column = divmod(int(resemblance.argmax()), resemblance.shape[1])
                score, geometry = self._between(spectrum, self._search.geometry(row, column), subset)
                fine.append((score / deviation, geometry, subset))
                rows = np.arange(row - 2, row + 3) % len(resemblance)
                resemblance[rows, max(0, column - 2) : column + 3] = -np.inf
        for _, geometry, subset in sorted(fine, key=lambda candidate: -candidate[0]):
            yield geometry, subset
            yield Geometry(geometry.angle + math.pi, geometry.log_scale), subset

    def _between(self, spectrum: Spectrum, geometry: Geometry, subset: Subset) -> tuple[float, Geometry]:
        """Returns the best score near a geometry, and the nearby geometry that has this score.

        Geometries up to one step of the polar map away are tried, in half steps. A geometry that does not fit the image
        has a score of about 0.
        """
        steps = np.linspace(-1, 1, 5)
        nearby = [
            Geometry(geometry.angle + turn * math.pi / NUM_ANGLES, geometry.log_scale + stretch * RADIUS_STEP)
            for turn in steps
            for stretch in steps
        ]
        frequencies = np.stack([near.bend(self._pattern.frequencies_BJ2[:, subset]) for near in nearby])
        scores = np.minimum(spectrum.excess(frequencies), MOST_EXCESS).mean((1, 2))
        best = int(scores.argmax())
        return float(scores[best]) - 1, nearby[best]

    def _values(self, spectrum: Spectrum, geometry: Geometry, subset: Subset) -> Complex:
        """Returns the sinusoids' amplitudes without the pattern's phases, relative to the noise near each frequency."""
        frequencies_BJ2 = geometry.bend(self._pattern.frequencies_BJ2[:, subset])
        noise_BJ = np.sqrt(spectrum.noise(frequencies_BJ2) * spectrum.num_pixels)
        return clip_excess(
            spectrum.amplitudes(frequencies_BJ2) / noise_BJ * np.exp(-1j * self._pattern.phases_BJ[:, subset])
        )

    def _place(self, spectrum: Spectrum, geometry: Geometry, subset: Subset) -> _Place:
        """Returns the place with the best origin for a geometry."""
        values_BJ = self._values(spectrum, geometry, subset)
        energies = self._pattern.energies(values_BJ, subset)
        best = int(energies.argmax())
        log_p = _log_energy_tail(float(energies.flat[best]), values_BJ)
        return _Place(geometry, subset, np.array(divmod(best, PERIOD), np.float64), log_p)

    def _exact(self, spectrum: Spectrum, place: _Place) -> _Place:
        """Returns a place with the p-value of `log_energy_tail`, which takes too long to compute for all places."""
        values_BJ = self._values(spectrum, place.geometry, place.subset)
        energy = float((self._pattern.bits(values_BJ, place.subset, place.origin) ** 2).sum())
        return replace(place, log_p=log_energy_tail(np.abs(values_BJ), energy))

    def _refined(self, spectrum: Spectrum, place: _Place) -> _Place:
        """Returns the nearby place with the most energy, found by coordinate ascent with decreasing steps."""

        def energy(numbers: Real) -> float:
            values_BJ = self._values(spectrum, Geometry(numbers[0], numbers[1]), place.subset)
            return float((self._pattern.bits(values_BJ, place.subset, numbers[2:]) ** 2).sum())

        numbers = np.array([place.geometry.angle, place.geometry.log_scale, *place.origin])
        most = energy(numbers)
        for halvings, axis, way in itertools.product(range(4), range(4), (1, -1)):
            step = np.zeros(4)
            step[axis] = way * _STEPS[axis] / 2**halvings
            while (energy_there := energy(numbers + step)) > most:
                most, numbers = energy_there, numbers + step
        return _Place(Geometry(float(numbers[0]), float(numbers[1])), place.subset, numbers[2:], place.log_p)

    def _read(self, spectrum: Spectrum, place: _Place, num_places: int) -> tuple[int, float] | None:
        """Returns the id at a place and its log p-value, corrected for `num_places`; None if no id is certain."""
        values_BJ = self._values(spectrum, place.geometry, place.subset)
        word, other = self._code.decode(self._pattern.bits(values_BJ, place.subset, place.origin), 2)
        message = self._payload.open(word.data)
        weights = np.abs(values_BJ).ravel()
        power = float((weights**2).sum())
        # The hash must match, and no other codeword may agree nearly as well.
        if message is None or word.agreement**2 - max(0.0, other.agreement) ** 2 <= _LEAD * power:
            return None
        # The tightest of the Chernoff bounds for several t. The first t is 2 a / sum(w^2), where a is the agreement; it
        # would be the optimum if I_0(t) were exp(t^2 / 4).
        t = 2 * word.agreement / power * np.linspace(1, 2.5, 16)
        chernoff = float((np.log(np.i0(np.outer(t, weights))).sum(1) - t * word.agreement).min())
        log_p = min(0.0, chernoff + ID_BITS * math.log(2) + math.log(num_places))
        return (message, log_p) if log_p - math.log(_ID_SHARE) <= LOG_MARKED else None

    def _heat(self, image_HW: Real, place: _Place, message: int) -> Real:
        """Returns the strength of the mark in each part of an image: 1 on average, about 0 where there is no mark."""
        signs_B1 = 2.0 * self._code.encode(self._payload.seal(message))[:, None] - 1
        frequencies_BJ2 = self._pattern.frequencies_BJ2[:, place.subset]
        turns = 2 * np.pi * (frequencies_BJ2 @ place.origin)
        amplitudes_BJ = signs_B1 * np.exp(1j * (self._pattern.phases_BJ[:, place.subset] + turns))
        frequencies = place.geometry.bend(frequencies_BJ2).reshape(-1, 2)
        plane = synthesise(amplitudes_BJ.ravel(), frequencies, *image_HW.shape)
        radius = min(_HEAT_RADIUS, (min(image_HW.shape) - 1) // 4)
        heat = local_mean(local_mean(image_HW * plane, radius), radius)
        return np.asarray(heat / max(heat.mean(), 1e-12), np.float64)


def _log_energy_tail(energy: float, values_BJ: Complex) -> float:
    """Returns the approximate log probability that uniform random phases give at least this energy at one place.

    The energy is the sum of c^2 over all soft bits c = sum w cos(phi). The cumulants of c are v = sum(w^2) / 2,
    k4 = -3/8 sum(w^4) and k6 = 5/4 sum(w^6). So c^2 has mean v, variance 2 v^2 + k4 and third central moment
    8 v^3 + 12 v k4 + k6. The energy's distribution is approximated by a shifted gamma distribution with the same mean,
    variance and, apart from rounding, skewness.
    """
    squares_BJ = values_BJ.real**2 + values_BJ.imag**2
    own_B, fourth_B = 0.5 * squares_BJ.sum(1), -0.375 * (squares_BJ**2).sum(1)
    sixth_B = 1.25 * (squares_BJ**3).sum(1)
    variance = float((2 * own_B**2 + fourth_B).sum())
    third = float((8 * own_B**3 + 12 * own_B * fourth_B + sixth_B).sum())
    # The shape of the gamma distribution that has the same skewness, because its skewness is 2 / sqrt(shape).
    shape = min(_NORMAL, max(1, round(4 * variance**3 / third**2))) if third > 0 else _NORMAL
    standard = (energy - float(own_B.sum())) / (math.sqrt(variance) + 1e-30)
    return log_erlang_tail(shape, shape + standard * math.sqrt(shape))


def _corrected(log_p: float, num_places: float) -> float:
    """Returns the log p-value of the best of n places: about log(1 - (1 - p)^n), where p is the uncorrected p-value."""
    expected = math.exp(min(log_p, 0.0)) * num_places
    return math.log(-math.expm1(-expected)) if expected > 1e-9 else log_p + math.log(num_places)


def _region(heat_HW: Real, height: int, width: int) -> Region:
    """Returns the bounding rectangle of the largest connected part of the image that is clearly marked."""
    rows, columns = (_edges(length) for length in heat_HW.shape)
    cells = np.add.reduceat(np.add.reduceat(heat_HW, rows[:-1], 0), columns[:-1], 1)
    cells /= np.outer(np.diff(rows), np.diff(columns))
    part = _largest_part(cells >= min(cells.max(), _HOT * np.quantile(cells, 0.9)))
    top, bottom = rows[part[0].min()], rows[part[0].max() + 1]
    left, right = columns[part[1].min()], columns[part[1].max() + 1]
    y, x = height / heat_HW.shape[0], width / heat_HW.shape[1]
    return Region(round(left * x), round(top * y), round(right * x), round(bottom * y))


def _edges(length: int) -> npt.NDArray[np.intp]:
    """Returns the boundaries of a heat map's cells along one axis: the start of each cell, then the end of the last."""
    return np.append(np.arange(0, length - _CELL // 2, _CELL), length)


def _largest_part(is_hot: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Returns the rows and columns of the cells in the largest connected set of hot cells."""
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
