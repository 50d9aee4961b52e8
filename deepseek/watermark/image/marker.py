"""Puts marks into images.

How strong a mark may be at each pixel is what matters most, and it follows from the bounds alone. A detector divides by
s^1.5, where s is the deviation around, so a mark of amplitude m counts m / s^1.5 there. The most that the sum of these
can be under a bound of the squared error, sum(m^2), and one of structural similarity, of which a mark costs about
m^2 / (2 s^2 + C2) at a pixel (Wang et al. 2004, equation 13, with a mark that is independent of the image), is by
Lagrange's multipliers

    m = g / (s^1.5 (1 + r / (2 s^2 + C2)))

with the least r at which both bounds hold: a mask of what the eye does not miss, by what the measures say of it.

Strength is shared among the sinusoids of a bit by how much of the image, and of what compression will do, is in their
way, and among bits so that all are as sure. What an image says of each bit by chance is noise to a detector, and known
here: of many origins of the pattern that one is taken from which the image says most of what the mark shall say.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from common.errors import InvalidArgument
from common.scalars import real_number
from deepseek.data.pictures import BACKGROUND
from deepseek.watermark.arrays import Real, check_pixels
from deepseek.watermark.image.code import BchCode
from deepseek.watermark.image.filters import bands, local_mean, local_variance, mean_gain
from deepseek.watermark.image.pattern import HIGHEST, PARTS, PERIOD, Part, Pattern
from deepseek.watermark.image.payload import Payload
from deepseek.watermark.image.spectrum import EVENED_POWER, EVENED_RADIUS, Spectrum, capped, evened
from deepseek.watermark.keys import WatermarkKey

MIN_SIDE = 128
PSNR_DB = 42.1
SSIM = 0.986

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue (ITU-R BT.601)."""

_SIMILARITY_RADIUS = 3  # the usual window of 7 x 7 pixels
_C2 = (0.03 * 255) ** 2
_CALM_VARIANCE = 12.0  # what compression adds even where an image is flat, levels^2
_COMPRESSION, _REFERENCE = 20.0, 0.15
"""Power that compression adds to an image at the reference frequency, levels^2, growing with the cube of the frequency:
of flat parts it leaves only what is coarse."""
_NUM_CORRECTIONS = 4
_NUM_ORIGINS = 1 << 12
_FEW_PIXELS, _MOST_LEEWAY = 256 * 256, 4.0

_ALL = 1.1
"""How much a mark of all sinusoids is preferred to one of a few, which depends on fewer frequencies."""

Pixels = npt.NDArray[np.uint8]
"""(height, width) or (height, width, 3), grey or red, green and blue, 0 to 255."""


@dataclass(frozen=True)
class Quality:
    """How close a marked image is to its original.

    Attributes:
        psnr_db: Peak signal to noise ratio over all channels, dB, of what can be seen.
        ssim: Mean structural similarity of brightness (Wang et al. 2004), windows of 7 x 7 pixels, of what can be seen.
    """

    psnr_db: float
    ssim: float


def luma(pixels: Pixels, alpha: Pixels | None = None) -> Real:
    """Brightness, (height, width), 0 to 255; transparent pixels are composited onto BACKGROUND."""
    brightness = pixels.astype(np.float32) @ LUMA if pixels.ndim == 3 else pixels.astype(np.float32)
    if alpha is None:
        return brightness
    return np.asarray(BACKGROUND + (brightness - BACKGROUND) * (alpha * np.float32(1 / 255)))


def check_size(pixels: Pixels) -> None:
    """Refuses what is too small to hold a mark.

    Raises:
        InvalidArgument: IMAGE_TOO_SMALL.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        message = f"the image has {width} x {height} pixels; sides of {MIN_SIDE} are the least that hold a mark"
        raise InvalidArgument("IMAGE_TOO_SMALL", message, field="image")


def quality(original: Pixels, marked: Pixels, alpha: Pixels | None = None) -> Quality:
    """Measures a marked image.

    Args:
        original: The image.
        marked: The same with a mark.
        alpha: As `ImageMarker.mark` has it. The difference is in what can be seen, and counts as of that alone.
    """
    seen = 1.0 if alpha is None else max(float(alpha.mean()) / 255, 1e-6)
    psnr_db = 10 * math.log10(255**2 / max(squared_error(original, marked) / seen, 1e-10))
    similarities = []
    for rows in _window_bands(len(original)):
        seen_rows = None if alpha is None else alpha[rows]
        first = luma(original[rows], seen_rows)
        mean = local_mean(first, _SIMILARITY_RADIUS)
        variance = local_variance(first, _SIMILARITY_RADIUS, mean)
        similarities.append(_similarity(first, luma(marked[rows], seen_rows), mean, variance))
    return Quality(psnr_db, 1 - (1 - float(np.concatenate(similarities).mean())) / seen)


class ImageMarker:
    """Marks images with ids. Thread-safe.

    Args:
        key: The key.
        psnr_db: Least peak signal to noise ratio of a marked image, dB. By default 42.1; where fewer than 256 x 256
            pixels can be seen less, as there are fewer to find a mark in: at 128 x 128 by 6 dB.
        ssim: Least structural similarity, about; less in such images.
    """

    def __init__(
        self,
        key: WatermarkKey,
        *,
        psnr_db: float | None = None,
        ssim: float = SSIM,
    ) -> None:
        self._is_strict = psnr_db is not None
        psnr_db = PSNR_DB if psnr_db is None else real_number(psnr_db, "psnr_db")
        ssim = real_number(ssim, "ssim")
        if not (30 <= psnr_db <= 60 and 0.9 <= ssim < 1):
            message = f"psnr_db is {psnr_db}, ssim {ssim}; take 30 to 60 dB, and 0.9 to below 1"
            raise InvalidArgument("BAD_VALUE", message, field="psnr_db")
        self._pattern, self._payload, self._code = Pattern(key), Payload(key), BchCode()
        self._max_error = 255**2 / 10 ** (psnr_db / 10)
        self._ssim = ssim
        frequencies = self._pattern.frequencies_BJ2
        # What of a sinusoid's variance a window sees: the rest moves the window's mean, which costs next to nothing.
        self._seen_BJ = 1 - mean_gain(frequencies, _SIMILARITY_RADIUS) ** 2
        self._evened_BJ = 1 - mean_gain(frequencies, EVENED_RADIUS)
        self._pitch_BJ = np.hypot(frequencies[..., 0], frequencies[..., 1]) / _REFERENCE

    def mark(
        self,
        pixels: Pixels,
        message: int,
        *,
        random: np.random.Generator | None = None,
        alpha: Pixels | None = None,
    ) -> Pixels:
        """Marks an image.

        Args:
            pixels: The image, sides of 128 or more.
            message: The id, 0 to 2^48 - 1.
            random: Draws the origins that are tried; unpredictable by default, and never to be the same for all images.
            alpha: (height, width), how opaque pixels are, 0 to 255; what nobody sees gets no mark.

        Returns:
            The marked image, of the same shape.

        Raises:
            InvalidArgument: BAD_ID, IMAGE_TOO_SMALL, BAD_VALUE if these are not pixels.
        """
        signs_B1 = 2.0 * self._code.encode(self._payload.seal(message))[:, None] - 1
        pixels = check_pixels(pixels)
        check_size(pixels)
        height, width = pixels.shape[:2]
        units = reduced(pixels)
        unit_alpha = None if alpha is None else reduced(alpha)
        # What is hidden must not count: a detector does not see it.
        brightness = luma(units, unit_alpha)
        mean = local_mean(brightness, _SIMILARITY_RADIUS)
        variance = local_variance(brightness, _SIMILARITY_RADIUS, mean)
        seen = 1.0 if alpha is None else float(alpha.mean()) / 255
        if not seen:
            return pixels.copy()
        leeway = min(_MOST_LEEWAY, max(1.0, _FEW_PIXELS / (height * width * seen)))
        max_error, max_dissimilarity = self._max_error, leeway * (1 - self._ssim)
        if not self._is_strict:
            max_error *= leeway
        mask, is_bound_by_error = self._mask(variance, max_error, max_dissimilarity)
        if unit_alpha is not None:
            mask = mask * (unit_alpha * np.float32(1 / 255))
            max_error *= seen  # a mean over all pixels, and there is a difference in these alone
        # Whole units, so that where nothing was moved a detector meets it exactly.
        origins = (random or np.random.default_rng()).integers(PERIOD, size=(2, _NUM_ORIGINS))
        difference: Real = self._pattern_of(brightness, mask, signs_B1, origins, is_bound_by_error) * mask
        # What was clipped at black and white, and how the mark goes with the image, shows only now.
        if units is pixels:
            marked = _added(pixels, difference)
            planes = brightness, luma(marked, alpha), mean, variance
            similarities = [_similarity(*(plane[rows] for plane in planes)) for rows in _window_bands(height)]
            ssim = 1 - (1 - float(np.concatenate(similarities).mean())) / seen
        else:
            difference = _resized(difference, height, width)
            marked = _added(pixels, difference)
            ssim = quality(pixels, marked, alpha).ssim
        difference *= min(_reserve(pixels, marked, max_error), math.sqrt(max_dissimilarity / max(1 - ssim, 1e-6)))
        # Rounding has errors of its own.
        for _ in range(_NUM_CORRECTIONS):
            marked = _added(pixels, difference)
            if (reserve := _reserve(pixels, marked, max_error)) >= 1:
                break
            difference *= 0.999 * reserve
        return marked

    def _mask(self, variance: Real, max_error: float, max_dissimilarity: float) -> tuple[Real, bool]:
        """Deviation of the mark at each pixel; and whether the bound of the squared error is the one that is met.

        Args:
            variance: (H, W), of brightness around each pixel.
            max_error: Bound of the mean squared error.
            max_dissimilarity: Bound of what structural similarity lacks to 1.
        """
        reach = (variance + _CALM_VARIANCE) ** np.float32(-EVENED_POWER / 2)
        cost = np.float32(self._seen_BJ.mean()) / (2 * variance + np.float32(_C2))
        some_reach, some_cost = reach[::2, ::2].copy(), cost[::2, ::2].copy()
        low, high = -3.0, 8.0
        while high - low > 0.05:
            middle = (low + high) / 2
            squares = (some_reach / (1 + np.float32(10**middle) * some_cost)) ** 2
            dissimilarity = (squares * some_cost).mean() / max_dissimilarity
            low, high = (middle, high) if dissimilarity > squares.mean() / max_error else (low, middle)
        mask = reach / (1 + np.float32(10**high) * cost)
        squares = mask * mask
        error, dissimilarity = squares.mean() / max_error, (squares * cost).mean() / max_dissimilarity
        return mask / np.float32(math.sqrt(max(error, dissimilarity))), bool(error >= dissimilarity)

    def _pattern_of(
        self,
        luma_HW: Real,
        mask_HW: Real,
        signs_B1: Real,
        origins_2N: npt.NDArray[np.intp],
        is_bound_by_error: bool,
    ) -> Real:
        """The pattern with a deviation of 1, each sinusoid as strong as it has to be, from the best of the origins."""
        image, divisor = evened(luma_HW)
        spectrum = Spectrum(image, HIGHEST)
        noise_BJ = spectrum.noise(self._pattern.frequencies_BJ2)
        # What a sinusoid of amplitude 1 adds to its own sum in the evened image.
        reach_BJ = float((mask_HW / divisor).sum()) / 2 * self._evened_BJ
        attack_BJ = _COMPRESSION * ((mask_HW > 0) / divisor**2).mean() * self._pitch_BJ**3
        reach_BJ /= np.sqrt((noise_BJ + attack_BJ) * image.size)
        ways = [(*self._amplitudes(reach_BJ, part, is_bound_by_error), part) for part in PARTS]
        _, amplitudes_BJ, part = max(ways, key=lambda way: way[0] * (_ALL if way[2] == PARTS[0] else 1.0))
        phases_BJ = np.exp(1j * self._pattern.phases_BJ[:, part])
        by_chance_BJ = capped(self._pattern.amplitudes(image, part) / np.sqrt(noise_BJ[:, part] * image.size))
        agreements = self._pattern.agreements(signs_B1 * by_chance_BJ * phases_BJ.conj(), part)
        origin = origins_2N[:, agreements[*origins_2N].argmax()]
        turns_BJ = signs_B1 * phases_BJ * self._pattern.turn(np.ones_like(phases_BJ), part, -origin.astype(np.float64))
        return self._pattern.plane(amplitudes_BJ * turns_BJ, part, *luma_HW.shape)

    def _amplitudes(self, reach_BJ: Real, part: Part, is_bound_by_error: bool) -> tuple[float, Real]:
        """How far each bit is lifted, in deviations of its noise; and the sinusoids' amplitudes, with a variance of 1
        in all.

        Args:
            reach_BJ: (127, 8), what each sinusoid adds to its bit at an amplitude of 1, in deviations of its noise.
            part: Which sinusoids are to be used.
            is_bound_by_error: Whether the bound of the squared error is the one that is met.
        """
        reach_BJ = reach_BJ[:, part]
        cost_BJ = np.ones_like(reach_BJ) if is_bound_by_error else self._seen_BJ[:, part]
        share_BJ = reach_BJ / cost_BJ
        # All bits are lifted to one level; a bit is the sum of its sinusoids, whose noise has half a variance each.
        level_B = (share_BJ * reach_BJ).sum(1) / math.sqrt(len(part) / 2)
        spent = ((share_BJ / level_B[:, None]) ** 2 * cost_BJ).sum()
        level = math.sqrt(2 * cost_BJ.mean() / spent)
        return level, level / level_B[:, None] * share_BJ


def _reserve(pixels: Pixels, marked: Pixels, max_error: float) -> float:
    """By how much a mark can be stronger, or has to be weaker, to meet the bound of the squared error; up to 4."""
    return min(4.0, math.sqrt(max_error / max(squared_error(pixels, marked), 1e-6)))


def unit_shape(height: int, width: int) -> tuple[int, int]:
    """Units of an image: its pixels, but no more than 512 x 512."""
    scale = max(1.0, np.sqrt(height * width) / PERIOD)
    return round(height / scale), round(width / scale)


def reduced(pixels: Pixels) -> Pixels:
    """An image with a pixel a unit."""
    height, width = unit_shape(*pixels.shape[:2])
    if (height, width) == pixels.shape[:2]:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def squared_error(original: Pixels, marked: Pixels) -> float:
    """Mean squared error, over all channels."""
    total = 0.0
    for first, second in zip(_bands(original), _bands(marked), strict=True):
        difference = np.subtract(first, second, dtype=np.int16).ravel().astype(np.float32)
        total += float(np.dot(difference, difference))
    return total / original.size


def _resized(plane_HW: npt.NDArray[Any], height: int, width: int) -> Real:
    image = Image.fromarray(plane_HW.astype(np.float32))
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC))


def _added(pixels: Pixels, difference_HW: Real) -> Pixels:
    marked = np.empty_like(pixels)
    for out, band, difference in zip(_bands(marked), _bands(pixels), _bands(difference_HW), strict=True):
        steps = np.rint(difference).astype(np.int16)
        if pixels.ndim == 3:  # repeated, since numpy is slow where it has to go three at a time
            steps = np.repeat(steps, 3, axis=1).reshape(band.shape)
        np.clip(band + steps, 0, 255, out=out, casting="unsafe")
    return marked


def _bands(image: npt.NDArray[np.generic]) -> Iterator[npt.NDArray[np.generic]]:
    """Some rows at a time, so that large images need little memory beside themselves."""
    return (image[rows] for rows in bands(len(image)))


def _window_bands(num_rows: int) -> Iterator[slice]:
    """Rows, some at a time, with those that windows reach into."""
    margin = 2 * _SIMILARITY_RADIUS
    return (slice(rows.start, rows.stop + margin) for rows in bands(num_rows - margin))


def _similarity(first_HW: Real, second_HW: Real, mean: Real, variance: Real) -> npt.NDArray[np.float64]:
    """Structural similarity (Wang et al. 2004, equation 13) with uniform windows and unbiased variances: means of rows,
    without those at the edges.

    Args:
        first_HW: (H, W), 0 to 255.
        second_HW: (H, W).
        mean: (H, W), local mean of the first.
        variance: (H, W), local variance of the first.
    """
    c1, radius = (0.01 * 255) ** 2, _SIMILARITY_RADIUS
    count = (2 * radius + 1) ** 2
    unbiased = count / (count - 1)
    difference = second_HW - first_HW
    shift = local_mean(difference, radius)
    shared = local_mean(difference * first_HW, radius) - shift * mean
    own = local_mean(difference * difference, radius) - shift * shift
    second_mean = mean + shift
    similarity = (2 * mean * second_mean + c1) / (mean * mean + second_mean * second_mean + c1)
    covariance = 2 * unbiased * (variance + shared) + _C2
    similarity *= covariance / (covariance + unbiased * own)
    return np.asarray(similarity[radius:-radius, radius:-radius].mean(1, dtype=np.float64))
