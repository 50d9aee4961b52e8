"""Means and variances over a square around each pixel.

All sums are in single precision, which suffices because each sum has few terms.
"""

from collections.abc import Iterator

import numpy as np

from deepseek.watermark.arrays import Real

_BAND = 64


def local_mean(plane_HW: Real, radius: int) -> Real:
    """Returns the mean over a square around each pixel; the plane is mirrored at its edges.

    Args:
        plane_HW: Plane, (H, W); both sides are longer than `radius`.
        radius: Radius in pixels; each side of the square is 2 * radius + 1 pixels long.
    """
    side = 2 * radius + 1
    padded = _mirrored(plane_HW.astype(np.float32, copy=False), radius)
    means = np.empty(plane_HW.shape, np.float32)
    for rows in bands(len(means)):
        sums = _window_sums(_window_sums(padded[rows.start : rows.stop + 2 * radius], side, 0), side, 1)
        np.multiply(sums, np.float32(1 / side**2), out=means[rows])
    return means


def bands(num_rows: int) -> Iterator[slice]:
    """Yields slices of a few rows each. Intermediate results then fit in a core's cache, which halves the time."""
    return (slice(row, min(row + _BAND, num_rows)) for row in range(0, num_rows, _BAND))


def mean_gain(frequencies: Real, radius: int) -> Real:
    """Returns the gain of `local_mean` (the Dirichlet kernel) at frequencies in cycles per pixel, (..., 2)."""
    side = 2 * radius + 1
    return np.asarray((np.sinc(side * frequencies) / np.sinc(frequencies)).prod(-1))


def local_variance(plane_HW: Real, radius: int, mean_HW: Real | None = None) -> Real:
    """Returns the variance over a square around each pixel.

    Args:
        plane_HW: Plane, (H, W).
        radius: Radius in pixels; each side of the square is 2 * radius + 1 pixels long.
        mean_HW: Result of `local_mean` for the same square, if it is already known.
    """
    mean = local_mean(plane_HW, radius) if mean_HW is None else mean_HW
    plane = plane_HW.astype(np.float32, copy=False)
    variance = local_mean(plane * plane, radius) - mean * mean
    return np.maximum(variance, np.float32(0), out=variance)


def _mirrored(plane: Real, radius: int) -> Real:
    """Returns a plane extended by `radius` mirrored pixels on each side. This is five times as fast as `numpy.pad`."""
    height, width = plane.shape
    padded = np.empty((height + 2 * radius, width + 2 * radius), np.float32)
    padded[radius:-radius, radius:-radius] = plane
    padded[:radius, radius:-radius] = plane[radius:0:-1]
    padded[-radius:, radius:-radius] = plane[-2 : -radius - 2 : -1]
    padded[:, :radius] = padded[:, 2 * radius : radius : -1]
    padded[:, -radius:] = padded[:, -radius - 2 : -2 * radius - 2 : -1]
    return padded


def _window_sums(plane: Real, length: int, axis: int) -> Real:
    """Returns the sums over all runs of `length` consecutive rows (axis 0) or columns (axis 1).

    `length` is odd and above 1. Each sum is assembled from sums over 1, 2, 4, ... rows or columns.
    """

    def part(of: Real, start: int, stop: int) -> Real:
        return of[start:stop] if axis == 0 else of[:, start:stop]

    count = plane.shape[axis] - length + 1
    sums, start, parts = plane, 1, [part(plane, 0, count)]
    for power in range(1, length.bit_length()):
        half = 1 << power - 1
        sums = part(sums, 0, sums.shape[axis] - half) + part(sums, half, sums.shape[axis])
        if length >> power & 1:
            parts.append(part(sums, start, start + count))
            start += 1 << power
    total = parts[0] + parts[1]
    for one in parts[2:]:
        total += one  # in place, because new memory would have to be cleared first
    return total
