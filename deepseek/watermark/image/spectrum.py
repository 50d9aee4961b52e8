"""What an image's brightness holds at any frequency, whether or not its transform has a value there.

First the image is *evened*: what is coarse is taken away, and the rest divided by how much there is of it around, to
the power of 1.5. By the power of 1 busy and calm parts would count alike; but a mark is clearer where it is calm, so
these count more. A matched filter would divide by the power of 3.5, but compression takes most where it is calm.
Then it is transformed twice: padded with zeros, for powers; and, for amplitudes at frequencies between, as in a
non-uniform FFT with a Kaiser-Bessel window (Fessler and Sutton 2003), of which one frequency costs 36 products.
"""

import math
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek.watermark.arrays import Complex, Real
from deepseek.watermark.image.filters import local_mean

EVENED_RADIUS = 4
_CALM = 1.5
"""Deviation that even a flat part is taken to have, levels of 255: noise of rounding is no texture."""
EVENED_POWER = 1.5

MOST_EXCESS = 6.0
"""Power over that around that counts at most, so that single frequencies, which images of grids and lines have, do not
outvote a thousand others."""

_WINDOW = 6
_PADDING = 1.5
_BETA = np.pi * math.sqrt((_WINDOW / _PADDING) ** 2 * (_PADDING - 0.5) ** 2 - 0.8)  # Beatty et al. 2005, equation 5
_NUM_VALUES = 1 << 14
_VALUES = np.i0(_BETA * np.sqrt(1 - np.linspace(0, 1, _NUM_VALUES + 1) ** 2)) / _WINDOW
_MARGIN = 4  # columns of negative frequencies, which a window at a frequency near 0 reaches into
_BLOCK, _NEARBY = 4, 3
"""Noise is averaged over blocks of so many padded frequencies a side, and so many blocks on each side."""


def evened(luma_HW: Real) -> tuple[Real, Real]:
    """Evens an image.

    Args:
        luma_HW: (H, W), 0 to 255.

    Returns:
        The evened image, and by what it was divided.
    """
    fine = luma_HW.astype(np.float32, copy=False) - local_mean(luma_HW, EVENED_RADIUS)
    deviation = np.sqrt(np.maximum(local_mean(fine * fine, EVENED_RADIUS), np.float32(0))) + np.float32(_CALM)
    divisor = deviation * (deviation / np.float32(_CALM)) ** np.float32(EVENED_POWER - 1)
    return fine / divisor, divisor


class Spectrum:
    """Amplitudes and powers of an evened image. Immutable, thread-safe.

    Amplitudes are sums over pixels, times exp(-2 pi i f (x - centre)). Powers are squares of these over the number of
    pixels.

    Args:
        evened_HW: (H, W).
        highest: No frequencies with a part above this will be asked for, cycles a pixel. What is above takes time too.
    """

    def __init__(self, evened_HW: Real, highest: float = 0.5) -> None:
        self._image = evened_HW.astype(np.float32, copy=False)
        self._shape = height, width = evened_HW.shape
        self._padded = _smooth(math.ceil(_PADDING * height)), _smooth(math.ceil(_PADDING * width))
        # Noise is that of blocks around as well.
        num_blocks = math.ceil(highest * self._padded[1]) // _BLOCK + 1 + _NEARBY
        self._num_columns = min(self._padded[1] // 2 + 1, num_blocks * _BLOCK)

    @cached_property
    def _powers(self) -> Real:
        spectrum = self._columns(np.fft.rfft(self._image, self._padded[1]))
        return (spectrum.real**2 + spectrum.imag**2) / np.float32(self.num_pixels)

    def _columns(self, rows: Complex) -> Complex:
        """The other half of a transform, as far as it will be asked for; rows that are missing are 0."""
        return np.fft.fft(rows[:, : self._num_columns], self._padded[0], axis=0)

    @cached_property
    def _noise(self) -> Real:
        # Means of blocks first: the rest is then a sixteenth of the work.
        rows, columns = self._padded[0] // _BLOCK, min(self._num_columns, self._padded[1] // 2) // _BLOCK
        blocks = self._powers[:, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK).mean((1, 3))
        wrapped = np.concatenate([blocks[-_NEARBY:], blocks, blocks[:_NEARBY]])
        return local_mean(wrapped, _NEARBY)[_NEARBY:-_NEARBY] + np.float32(1e-9)

    @cached_property
    def _amplitudes(self) -> Complex:
        (height, width), padded = self._shape, self._padded
        image = self._image * _unwindow(height, padded[0])[:, None] * _unwindow(width, padded[1])
        rows = np.fft.rfft(_centred(image, padded[1], 1))[:, : self._num_columns]
        right = self._columns(_centred(rows, padded[0], 0))
        left = np.roll(right[::-1], 1, 0)[:, _MARGIN:0:-1].conj()
        return np.concatenate([left, right], 1)

    @property
    def num_pixels(self) -> int:
        """Pixels of the image."""
        return int(self._image.size)

    def amplitudes(self, frequencies: Real) -> Complex:
        """Amplitudes at frequencies (..., 2), y and x, cycles a pixel."""
        flat = frequencies.reshape(-1, 2)
        mirrored = flat[:, 1] < 0
        positions = np.where(mirrored[:, None], -flat, flat) * self._padded
        first = np.floor(positions).astype(int) - _WINDOW // 2 + 1
        taps = first[:, :, None] + np.arange(_WINDOW)
        weights = _window(positions[:, :, None] - taps)
        rows = taps[:, 0] % self._padded[0]
        columns = np.minimum(taps[:, 1] + _MARGIN, self._amplitudes.shape[1] - 1)
        patches = self._amplitudes[rows[:, :, None], columns[:, None, :]]
        sums = np.einsum("kyx,ky,kx->k", patches, weights[:, 0], weights[:, 1])
        sums = np.where(mirrored, sums.conj(), sums)
        # Pixels were counted from one of them; the centre may lie between two.
        shift = np.array([length // 2 - (length - 1) / 2 for length in self._shape])
        turned: Complex = sums * np.exp(-2j * np.pi * (flat @ shift))
        return turned.reshape(frequencies.shape[:-1])

    def noise(self, frequencies: Real) -> Real:
        """Mean of powers around frequencies (..., 2)."""
        return self._noise_at(self._nearest(frequencies))

    def excess(self, frequencies: Real) -> Real:
        """Powers at frequencies (..., 2) over the mean of powers around."""
        nearest = self._nearest(frequencies)
        return np.asarray(self._powers[nearest] / self._noise_at(nearest))

    def _noise_at(self, nearest: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]) -> Real:
        rows, columns = nearest
        return np.asarray(self._noise[rows // _BLOCK, np.minimum(columns // _BLOCK, self._noise.shape[1] - 1)])

    def _nearest(self, frequencies: Real) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        y, x = frequencies[..., 0], frequencies[..., 1]
        rows = np.rint(np.where(x < 0, -y, y) * self._padded[0]).astype(int) % self._padded[0]
        columns = np.rint(np.abs(x) * self._padded[1]).astype(int)
        return rows, np.minimum(columns, self._powers.shape[1] - 1)


def capped(values: Complex) -> Complex:
    """Amplitudes over the noise around, whose deviation is about 1, none of them with more power than `MOST_EXCESS`."""
    return np.asarray(values / np.maximum(1.0, np.abs(values) / math.sqrt(MOST_EXCESS)))


def synthesised(amplitudes: Complex, frequencies: Real, height: int, width: int) -> Real:
    """The real part of a sum of sinusoids, exp(2 pi i f (x - centre)); the adjoint of `Spectrum.amplitudes`.

    Args:
        amplitudes: (K,).
        frequencies: (K, 2), y and x, cycles a pixel.
        height: Of the result, pixels.
        width: As well.

    Returns:
        (height, width).
    """
    padded = _smooth(math.ceil(_PADDING * height)), _smooth(math.ceil(_PADDING * width))
    positions = frequencies * padded
    first = np.floor(positions).astype(int) - _WINDOW // 2 + 1
    taps = first[:, :, None] + np.arange(_WINDOW)
    weights = _window(positions[:, :, None] - taps)
    shift = np.array([length // 2 - (length - 1) / 2 for length in (height, width)])
    turned = amplitudes * np.exp(2j * np.pi * (frequencies @ shift))
    values = turned[:, None, None] * weights[:, 0, :, None] * weights[:, 1, None, :]
    where = taps[:, 0, :, None] % padded[0] * padded[1] + taps[:, 1, None, :] % padded[1]
    size = padded[0] * padded[1]
    grid = np.bincount(where.ravel(), values.real.ravel(), size) + 1j * np.bincount(
        where.ravel(), values.imag.ravel(), size
    )
    image = np.fft.ifft2(grid.reshape(padded).astype(np.complex64)).real * size
    image = np.roll(image, (height // 2, width // 2), (0, 1))[:height, :width]
    return np.asarray(image * _unwindow(height, padded[0])[:, None] * _unwindow(width, padded[1]), np.float64)


def _window(distances: Real) -> Real:
    """The Kaiser-Bessel window at distances in padded frequencies."""
    nearest = (np.abs(distances) * (_NUM_VALUES * 2 / _WINDOW) + 0.5).astype(np.intp)
    return _VALUES[np.minimum(nearest, _NUM_VALUES)]


def _centred(plane: npt.NDArray[Any], length: int, axis: int) -> npt.NDArray[Any]:
    """Pads with zeros, so that the centre is at 0 and what is before it at the end."""
    number, middle = plane.shape[axis], plane.shape[axis] // 2
    padded = np.zeros((length, plane.shape[1]) if axis == 0 else (plane.shape[0], length), plane.dtype)
    lines, padded_lines = np.moveaxis(plane, axis, 0), np.moveaxis(padded, axis, 0)
    padded_lines[: number - middle], padded_lines[length - middle :] = lines[middle:], lines[:middle]
    return padded


@cache
def _unwindow(length: int, padded: int) -> npt.NDArray[np.float32]:
    """What undoes the window at each of `length` pixels: one over its transform."""
    argument = np.sqrt(_BETA**2 - (np.pi * _WINDOW * (np.arange(length) - length // 2) / padded) ** 2)
    return (argument / np.sinh(argument)).astype(np.float32)


@cache
def _smooth(least: int) -> int:
    """The next number from `least` on that blocks divide, without prime factors above 5, so that it transforms fast."""
    number = -(-least // (2 * _BLOCK)) * 2 * _BLOCK
    while True:
        rest = number
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return number
        number += 2 * _BLOCK
