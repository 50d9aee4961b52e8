"""Embeds marks in images, as strongly as bounds on squared error and structural similarity allow.

The strength at each pixel maximizes the detector's signal within both bounds (docs/decisions/0017). The amplitudes of a
bit's sinusoids depend on the noise at their frequencies, i.e. the image content and the expected errors of compression.
Many random origins of the pattern are tried; the one at which the unmarked image already agrees best with the mark is
used.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from common.errors import InvalidArgument
from common.scalars import real_number
from deepseek.watermark.arrays import Real, check_pixels
from deepseek.watermark.image.bch_code import BchCode
from deepseek.watermark.image.filters import local_mean, local_variance, mean_gain
from deepseek.watermark.image.pattern import HIGHEST, PERIOD, SUBSETS, Pattern, Subset
from deepseek.watermark.image.payload import Payload
from deepseek.watermark.image.pixels import Pixels, check_size, luma, reduced, row_bands
from deepseek.watermark.image.quality import (
    C2,
    SIMILARITY_RADIUS,
    quality,
    row_similarities,
    squared_error,
    window_bands,
)
from deepseek.watermark.image.spectrum import CONTRAST_POWER, CONTRAST_RADIUS, Spectrum, clip_excess, normalize_contrast
from deepseek.watermark.keys import WatermarkKey

PSNR_DB = 42.1
SSIM = 0.986

_CALM_VARIANCE = 12.0  # variance that compression adds even to flat parts, in levels^2
_COMPRESSION, _REFERENCE = 20.0, 0.15
"""Noise power that compression adds at the reference frequency, in levels^2; and the reference frequency, in cycles per
unit. The power grows with the cube of the frequency, so only coarse structure survives in flat parts."""
_NUM_CORRECTIONS = 4
_NUM_ORIGINS = 1 << 12
_FEW_PIXELS, _MOST_LEEWAY = 256 * 256, 4.0

_ALL = 1.1
"""Preference for a mark that uses all sinusoids. A mark that uses only three per bit depends on few frequencies."""


class ImageMarker:
    """Marks images with ids. Thread-safe.

    Args:
        key: Key of the marks.
        psnr_db: Minimum peak signal-to-noise ratio of a marked image, in dB. The default is 42.1 dB, but lower for
            images with fewer than 256 x 256 visible pixels, which need stronger marks: at 128 x 128, it is 6 dB lower.
        ssim: Approximate minimum of the structural similarity. For images with fewer than 256 x 256 visible pixels, a
            lower similarity than this is accepted.

    Raises:
        InvalidArgument: BAD_VALUE if `psnr_db` is not from 30 to 60, or `ssim` is not from 0.9 to below 1.
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
            message = f"psnr_db is {psnr_db}, ssim is {ssim}; use 30 to 60 dB, and an ssim of 0.9 to below 1"
            raise InvalidArgument("BAD_VALUE", message, field="psnr_db")
        self._pattern, self._payload, self._code = Pattern(key), Payload(key), BchCode()
        self._max_error = 255**2 / 10 ** (psnr_db / 10)
        self._ssim = ssim
        frequencies = self._pattern.frequencies_BJ2
        # Share of a sinusoid's power that is variance within a similarity window. The rest moves the window's mean,
        # which hardly reduces the similarity.
        self._seen_BJ = 1 - mean_gain(frequencies, SIMILARITY_RADIUS) ** 2
        self._fine_share_BJ = 1 - mean_gain(frequencies, CONTRAST_RADIUS)
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
            pixels: Image with sides of at least 128 pixels.
            message: Id, 0 to 2^48 - 1.
            random: Generator that draws the origins to try; unpredictable by default. It must not draw the same origins
                for all images.
            alpha: Opacity, (height, width), 0 to 255; invisible pixels get no mark.

        Returns:
            The marked image, of the same shape.

        Raises:
            InvalidArgument: BAD_ID if `message` is not an id; IMAGE_TOO_SMALL; BAD_VALUE if `pixels` is not an image.
        """
        signs_B1 = 2.0 * self._code.encode(self._payload.seal(message))[:, None] - 1
        pixels = check_pixels(pixels)
        check_size(pixels)
        height, width = pixels.shape[:2]
        units = reduced(pixels)
        unit_alpha = None if alpha is None else reduced(alpha)
        # Transparent pixels must not count, because a detector does not see them.
        brightness = luma(units, unit_alpha)
        mean = local_mean(brightness, SIMILARITY_RADIUS)
        variance = local_variance(brightness, SIMILARITY_RADIUS, mean)
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
            max_error *= seen  # the error is averaged over all pixels, but only visible ones differ
        # Origins are whole units, so that a detector finds the exact origin if the image was not shifted.
        origins = (random or np.random.default_rng()).integers(PERIOD, size=(2, _NUM_ORIGINS))
        difference: Real = self._pattern_of(brightness, mask, signs_B1, origins, is_bound_by_error) * mask
        # The effects of clipping at black and white, and of correlation between mark and image, are known only now.
        if units is pixels:
            marked = _added(pixels, difference)
            planes = brightness, luma(marked, alpha), mean, variance
            similarities = [row_similarities(*(plane[rows] for plane in planes)) for rows in window_bands(height)]
            ssim = 1 - (1 - float(np.concatenate(similarities).mean())) / seen
        else:
            difference = _resized(difference, height, width)
            marked = _added(pixels, difference)
            ssim = quality(pixels, marked, alpha).ssim
        difference *= min(_reserve(pixels, marked, max_error), math.sqrt(max_dissimilarity / max(1 - ssim, 1e-6)))
        # Rounding to integers adds an error, so the strength is reduced until the bound on the squared error holds.
        for _ in range(_NUM_CORRECTIONS):
            marked = _added(pixels, difference)
            if (reserve := _reserve(pixels, marked, max_error)) >= 1:
                break
            difference *= 0.999 * reserve
        return marked

    def _mask(self, variance: Real, max_error: float, max_dissimilarity: float) -> tuple[Real, bool]:
        """Returns the mark's standard deviation at each pixel, and whether the bound on the squared error is active.

        Args:
            variance: Variance of brightness around each pixel, (H, W).
            max_error: Upper bound on the mean squared error.
            max_dissimilarity: Upper bound on 1 minus the structural similarity.
        """
        reach = (variance + _CALM_VARIANCE) ** np.float32(-CONTRAST_POWER / 2)
        cost = np.float32(self._seen_BJ.mean()) / (2 * variance + np.float32(C2))
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
        """Returns the pattern at the best of the given origins, with weighted sinusoids and a total variance of 1."""
        image, divisor = normalize_contrast(luma_HW)
        spectrum = Spectrum(image, HIGHEST)
        noise_BJ = spectrum.noise(self._pattern.frequencies_BJ2)
        # Contribution of a sinusoid of amplitude 1 to the amplitude measured at its frequency in the normalized image.
        reach_BJ = float((mask_HW / divisor).sum()) / 2 * self._fine_share_BJ
        attack_BJ = _COMPRESSION * ((mask_HW > 0) / divisor**2).mean() * self._pitch_BJ**3
        reach_BJ /= np.sqrt((noise_BJ + attack_BJ) * image.size)
        ways = [(*self._amplitudes(reach_BJ, subset, is_bound_by_error), subset) for subset in SUBSETS]
        _, amplitudes_BJ, subset = max(ways, key=lambda way: way[0] * (_ALL if way[2] == SUBSETS[0] else 1.0))
        phases_BJ = np.exp(1j * self._pattern.phases_BJ[:, subset])
        by_chance_BJ = clip_excess(self._pattern.amplitudes(image, subset) / np.sqrt(noise_BJ[:, subset] * image.size))
        agreements = self._pattern.agreements(signs_B1 * by_chance_BJ * phases_BJ.conj(), subset)
        origin = origins_2N[:, agreements[*origins_2N].argmax()]
        turns_BJ = (
            signs_B1 * phases_BJ * self._pattern.turn(np.ones_like(phases_BJ), subset, -origin.astype(np.float64))
        )
        return self._pattern.plane(amplitudes_BJ * turns_BJ, subset, *luma_HW.shape)

    def _amplitudes(self, reach_BJ: Real, subset: Subset, is_bound_by_error: bool) -> tuple[float, Real]:
        """Returns the level of every bit, in standard deviations of its noise, and amplitudes with a variance of 1.

        Args:
            reach_BJ: Contribution of each sinusoid of amplitude 1 to its bit, in standard deviations of the noise,
                (127, 8).
            subset: Sinusoids to use.
            is_bound_by_error: Whether the bound on the squared error is active.
        """
        reach_BJ = reach_BJ[:, subset]
        cost_BJ = np.ones_like(reach_BJ) if is_bound_by_error else self._seen_BJ[:, subset]
        share_BJ = reach_BJ / cost_BJ
        # All bits get the same level. A bit is the sum of its sinusoids, each with noise of variance 1/2.
        level_B = (share_BJ * reach_BJ).sum(1) / math.sqrt(len(subset) / 2)
        spent = ((share_BJ / level_B[:, None]) ** 2 * cost_BJ).sum()
        level = math.sqrt(2 * cost_BJ.mean() / spent)
        return level, level / level_B[:, None] * share_BJ


def _reserve(pixels: Pixels, marked: Pixels, max_error: float) -> float:
    """Returns the factor, at most 4, by which to scale a mark so that its squared error reaches the given bound."""
    return min(4.0, math.sqrt(max_error / max(squared_error(pixels, marked), 1e-6)))


def _resized(plane_HW: npt.NDArray[Any], height: int, width: int) -> Real:
    image = Image.fromarray(plane_HW.astype(np.float32))
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC))


def _added(pixels: Pixels, difference_HW: Real) -> Pixels:
    marked = np.empty_like(pixels)
    for out, band, difference in zip(row_bands(marked), row_bands(pixels), row_bands(difference_HW), strict=True):
        steps = np.rint(difference).astype(np.int16)
        if pixels.ndim == 3:  # repeated, because broadcasting over three channels is slow
            steps = np.repeat(steps, 3, axis=1).reshape(band.shape)
        np.clip(band + steps, 0, 255, out=out, casting="unsafe")
    return marked
