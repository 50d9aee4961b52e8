"""Amplitudes and powers of an image's brightness at arbitrary frequencies.

The contrast is normalized first: coarse structure is subtracted, and the rest is divided by the 1.5th power of its
local standard deviation (docs/decisions/0010 explains the exponent). Powers come from a zero-padded FFT.
Amplitudes between the transform's frequencies are interpolated as in a non-uniform FFT with a Kaiser-Bessel window
(Fessler and Sutton 2003), which costs 36 products per frequency.
"""

import math
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek.watermark.arrays import Complex, Real
from deepseek.watermark.image.filters import local_mean

CONTRAST_RADIUS = 4
_CALM = 1.5
"""Standard deviation that is added at every pixel, in levels of 0 to 255. It keeps rounding noise in flat parts from
counting as texture."""
CONTRAST_POWER = 1.5

MOST_EXCESS = 6.0
"""Upper limit on the power at a frequency, relative to the mean power at nearby frequencies. It keeps single strong
frequencies, such as those of grids and lines, from outweighing a thousand others."""

_WINDOW = 6
_PADDING = 1.5
_BETA = np.pi * math.sqrt((_WINDOW / _PADDING) ** 2 * (_PADDING - 0.5) ** 2 - 0.8)  # Beatty et al. 2005, equation 5
_NUM_VALUES = 1 << 14
_VALUES = np.i0(_BETA * np.sqrt(1 - np.linspace(0, 1, _NUM_VALUES + 1) ** 2)) / _WINDOW
_MARGIN = 4  # columns of negative frequencies that a window at a frequency near 0 reaches into
_BLOCK, _NEARBY = 4, 3
"""Noise is averaged over square blocks with sides of `_BLOCK` frequency steps of the padded transform, then over blocks
up to `_NEARBY` away."""


def normalize_contrast(luma_HW: Real) -> tuple[Real, Real]:
    """Normalizes the contrast of an image.

    Args:
        luma_HW: Brightness, (H, W), 0 to 255.

    Returns:
        The normalized image, and the divisor of each pixel.
    """
    fine = luma_HW.astype(np.float32, copy=False) - local_mean(luma_HW, CONTRAST_RADIUS)
    deviation = np.sqrt(np.maximum(local_mean(fine * fine, CONTRAST_RADIUS), np.float32(0))) + np.float32(_CALM)
    divisor = deviation * (deviation / np.float32(_CALM)) ** np.float32(CONTRAST_POWER - 1)
    return fine / divisor, divisor


class Spectrum:
    """Amplitudes and powers of an image with normalized contrast. Immutable, thread-safe.

    The amplitude at a frequency f is the sum over all pixels of the pixel times exp(-2 pi i f (x - centre)), where x is
    the position of the pixel. A power is the squared magnitude of an amplitude, divided by the number of pixels.

    Args:
        normalized_HW: Image with normalized contrast, (H, W).
        highest: Largest component of the frequencies that will be queried, in cycles per pixel. A smaller value saves
            time.
    """

    def __init__(self, normalized_HW: Real, highest: float = 0.5) -> None:
        self._image = normalized_HW.astype(np.float32, copy=False)
        self._shape = height, width = normalized_HW.shape
        self._padded = _smooth(math.ceil(_PADDING * height)), _smooth(math.ceil(_PADDING * width))
        # The noise at the highest frequency also depends on the blocks beyond it.
        num_blocks = math.ceil(highest * self._padded[1]) // _BLOCK + 1 + _NEARBY
        self._num_columns = min(self._padded[1] // 2 + 1, num_blocks * _BLOCK)

    @cached_property
    def _powers(self) -> Real:
        spectrum = self._columns(np.fft.rfft(self._image, self._padded[1]))
        return (spectrum.real**2 + spectrum.imag**2) / np.float32(self.num_pixels)

    def _columns(self, rows: Complex) -> Complex:
        """Returns the transform along columns, up to the highest frequency. Rows missing from the input count as 0."""
        return np.fft.fft(rows[:, : self._num_columns], self._padded[0], axis=0)

    @cached_property
    def _noise(self) -> Real:
        # Blocks are averaged first, which reduces the remaining work to a sixteenth.
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
        """Number of pixels of the image."""
        return int(self._image.size)

    def amplitudes(self, frequencies: Real) -> Complex:
        """Returns the amplitudes at frequencies given in cycles per pixel. The last axis holds y and x."""
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
        # The transform's phases are relative to a pixel, whereas the centre may lie between two pixels.
        shift = np.array([length // 2 - (length - 1) / 2 for length in self._shape])
        turned: Complex = sums * np.exp(-2j * np.pi * (flat @ shift))
        return turned.reshape(frequencies.shape[:-1])

    def noise(self, frequencies: Real) -> Real:
        """Returns the mean power near each of the given frequencies (see `amplitudes`)."""
        return self._noise_at(self._nearest(frequencies))

    def excess(self, frequencies: Real) -> Real:
        """Returns the power at each of the given frequencies (see `amplitudes`), relative to the mean power nearby."""
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


def clip_excess(values: Complex) -> Complex:
    """Caps the power of amplitudes at `MOST_EXCESS`. The amplitudes are in standard deviations of the noise."""
    return np.asarray(values / np.maximum(1.0, np.abs(values) / math.sqrt(MOST_EXCESS)))


def synthesise(amplitudes: Complex, frequencies: Real, height: int, width: int) -> Real:
    """Returns the real part of the sum of sinusoids a exp(2 pi i f (x - centre)) with complex amplitudes a.

    Here f is the frequency of a sinusoid, and x a position. This is the adjoint of `Spectrum.amplitudes`.

    Args:
        amplitudes: Complex amplitudes, (K,).
        frequencies: Frequencies (y and x) in cycles per pixel, (K, 2).
        height: Height of the result, in pixels.
        width: Width of the result, in pixels.
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
    """Returns the Kaiser-Bessel window at the given distances, in frequency steps of the padded transform."""
    nearest = (np.abs(distances) * (_NUM_VALUES * 2 / _WINDOW) + 0.5).astype(np.intp)
    return _VALUES[np.minimum(nearest, _NUM_VALUES)]


def _centred(plane: npt.NDArray[Any], length: int, axis: int) -> npt.NDArray[Any]:
    """Returns a plane padded with zeros along an axis, and rotated so that its centre is at index 0."""
    number, middle = plane.shape[axis], plane.shape[axis] // 2
    padded = np.zeros((length, plane.shape[1]) if axis == 0 else (plane.shape[0], length), plane.dtype)
    lines, padded_lines = np.moveaxis(plane, axis, 0), np.moveaxis(padded, axis, 0)
    padded_lines[: number - middle], padded_lines[length - middle :] = lines[middle:], lines[:middle]
    return padded


@cache
def _unwindow(length: int, padded: int) -> npt.NDArray[np.float32]:
    """Returns the factors that undo the window: the reciprocal of its transform at each of `length` pixels."""
    argument = np.sqrt(_BETA**2 - (np.pi * _WINDOW * (np.arange(length) - length // 2) / padded) ** 2)
    return (argument / np.sinh(argument)).astype(np.float32)


@cache
def _smooth(least: int) -> int:
    """Returns a length for a fast FFT.

    This is the smallest multiple of 2 * `_BLOCK` that is at least `least` and has no prime factors except 2, 3 and 5.
    """
    number = -(-least // (2 * _BLOCK)) * 2 * _BLOCK
    while True:
        rest = number
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return number
        number += 2 * _BLOCK
