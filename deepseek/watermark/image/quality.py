"""The similarity of a marked image to its original: squared error and structural similarity."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deepseek.watermark.arrays import Real
from deepseek.watermark.image.filters import bands, local_mean, local_variance
from deepseek.watermark.image.pixels import Pixels, luma, row_bands

SIMILARITY_RADIUS = 3  # the usual window of 7 x 7 pixels
C2 = (0.03 * 255) ** 2


@dataclass(frozen=True)
class Quality:
    """The similarity of a marked image to its original.

    Attributes:
        psnr_db: Peak signal-to-noise ratio of the visible pixels over all channels, in dB.
        ssim: Mean structural similarity of the visible brightness (Wang et al. 2004) in windows of 7 x 7 pixels.
    """

    psnr_db: float
    ssim: float


def quality(original: Pixels, marked: Pixels, alpha: Pixels | None = None) -> Quality:
    """Returns the similarity of a marked image to its original.

    Args:
        original: Original image.
        marked: Marked image of the same shape.
        alpha: Opacity, (height, width), 0 to 255. Both measures ignore transparent pixels: marking leaves
            them unchanged, so they would inflate the similarity.
    """
    seen = 1.0 if alpha is None else max(float(alpha.mean()) / 255, 1e-6)
    psnr_db = 10 * math.log10(255**2 / max(squared_error(original, marked) / seen, 1e-10))
    similarities = []
    for rows in window_bands(len(original)):
        seen_rows = None if alpha is None else alpha[rows]
        first = luma(original[rows], seen_rows)
        mean = local_mean(first, SIMILARITY_RADIUS)
        variance = local_variance(first, SIMILARITY_RADIUS, mean)
        similarities.append(row_similarities(first, luma(marked[rows], seen_rows), mean, variance))
    return Quality(psnr_db, 1 - (1 - float(np.concatenate(similarities).mean())) / seen)


def squared_error(original: Pixels, marked: Pixels) -> float:
    """Returns the mean squared error over all channels."""
    total = 0.0
    for first, second in zip(row_bands(original), row_bands(marked), strict=True):
        difference = np.subtract(first, second, dtype=np.int16).ravel().astype(np.float32)
        total += float(np.dot(difference, difference))
    return total / original.size


def window_bands(num_rows: int) -> Iterator[slice]:
    """Yields slices of a few rows each, extended by the rows that the similarity windows also need."""
    margin = 2 * SIMILARITY_RADIUS
    return (slice(rows.start, rows.stop + margin) for rows in bands(num_rows - margin))


def row_similarities(first_HW: Real, second_HW: Real, mean: Real, variance: Real) -> npt.NDArray[np.float64]:
    """Returns the mean structural similarity of each row, except the rows at the edges.

    All pixels of a window have the same weight, and variances are unbiased (Wang et al. 2004, equation 13).

    Args:
        first_HW: First plane, (H, W), 0 to 255.
        second_HW: Second plane, (H, W), 0 to 255.
        mean: Local mean of the first plane, (H, W).
        variance: Local variance of the first plane, (H, W).
    """
    c1, radius = (0.01 * 255) ** 2, SIMILARITY_RADIUS
    count = (2 * radius + 1) ** 2
    unbiased = count / (count - 1)
    difference = second_HW - first_HW
    shift = local_mean(difference, radius)
    shared = local_mean(difference * first_HW, radius) - shift * mean
    own = local_mean(difference * difference, radius) - shift * shift
    second_mean = mean + shift
    similarity = (2 * mean * second_mean + c1) / (mean * mean + second_mean * second_mean + c1)
    covariance = 2 * unbiased * (variance + shared) + C2
    similarity *= covariance / (covariance + unbiased * own)
    return np.asarray(similarity[radius:-radius, radius:-radius].mean(1, dtype=np.float64))
