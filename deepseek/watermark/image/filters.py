"""Means and deviations around each pixel, in single precision, of which they are sums of few numbers."""

import numpy as np

from deepseek.watermark.arrays import Real


def local_mean(plane_HW: Real, radius: int) -> Real:
    """Mean over the square of 2 * radius + 1 pixels around each; beyond its edges a plane goes on mirrored.

    Args:
        plane_HW: (H, W), both above `radius`.
        radius: Pixels.
    """
    side = 2 * radius + 1
    padded = np.pad(plane_HW.astype(np.float32, copy=False), radius, mode="reflect")
    sums = _window_sums(np.ascontiguousarray(_window_sums(padded, side).T), side).T
    return np.ascontiguousarray(sums) * np.float32(1 / side**2)


def mean_gain(frequencies: Real, radius: int) -> Real:
    """What `local_mean` leaves of sinusoids of frequencies (..., 2), cycles a pixel: the Dirichlet kernel."""
    side = 2 * radius + 1
    return np.asarray((np.sinc(side * frequencies) / np.sinc(frequencies)).prod(-1))


def local_variance(plane_HW: Real, radius: int) -> Real:
    """Variance over the square of 2 * radius + 1 pixels around each."""
    means = local_mean(plane_HW, radius)
    plane = plane_HW.astype(np.float32, copy=False)
    return np.maximum(local_mean(plane * plane, radius) - means * means, np.float32(0))


def _window_sums(rows: Real, length: int) -> Real:
    """Sums of `length` rows from each on, out of sums of 1, 2, 4, ... rows."""
    count, number, start = len(rows) - length + 1, 1, 0
    total = np.zeros((count, rows.shape[1]), np.float32)
    sums = rows
    while True:
        if length & number:
            total += sums[start : start + count]
            start += number
        number *= 2
        if number > length:
            return total
        sums = sums[: -(number // 2)] + sums[number // 2 :]
