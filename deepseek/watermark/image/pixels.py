"""Image pixels, their brightness, and the size of an image in pattern units."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from common.errors import InvalidArgument
from deepseek.data.pictures import BACKGROUND
from deepseek.watermark.arrays import Real
from deepseek.watermark.image.filters import bands
from deepseek.watermark.image.pattern import PERIOD

MIN_SIDE = 128

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""

Pixels = npt.NDArray[np.uint8]
"""An image with values from 0 to 255, of shape (height, width) for grey or (height, width, 3) for RGB."""


def luma(pixels: Pixels, alpha: Pixels | None = None) -> Real:
    """Returns the brightness, (height, width), 0 to 255; transparent pixels are composited onto BACKGROUND."""
    brightness = pixels.astype(np.float32) @ LUMA if pixels.ndim == 3 else pixels.astype(np.float32)
    if alpha is None:
        return brightness
    return np.asarray(BACKGROUND + (brightness - BACKGROUND) * (alpha * np.float32(1 / 255)))


def check_size(pixels: Pixels) -> None:
    """Checks that an image is large enough to hold a mark.

    Raises:
        InvalidArgument: IMAGE_TOO_SMALL.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        message = f"the image has {width} x {height} pixels; a mark needs at least {MIN_SIDE} x {MIN_SIDE}"
        raise InvalidArgument("IMAGE_TOO_SMALL", message, field="image")


def unit_shape(height: int, width: int) -> tuple[int, int]:
    """Returns the height and width of an image in pattern units.

    In an image of at most 512 x 512 pixels, a unit is one pixel. A larger image of any aspect ratio is divided into
    about 512 x 512 units in total.
    """
    scale = max(1.0, np.sqrt(height * width) / PERIOD)
    return round(height / scale), round(width / scale)


def reduced(pixels: Pixels) -> Pixels:
    """Returns an image scaled to one pixel per pattern unit."""
    height, width = unit_shape(*pixels.shape[:2])
    if (height, width) == pixels.shape[:2]:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def row_bands(image: npt.NDArray[np.generic]) -> Iterator[npt.NDArray[np.generic]]:
    """Yields a few rows at a time, so that large images need little extra memory."""
    return (image[rows] for rows in bands(len(image)))
