"""Names of array types, pixels from callers' images, and uniforms from random words."""

from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument
from deepseek.arrays import as_array

Real = npt.NDArray[np.floating]
Complex = npt.NDArray[np.complexfloating]


def check_pixels(given: Any) -> npt.NDArray[np.uint8]:
    """Returns the pixels of an image.

    Args:
        given: (height, width), grey, or (height, width, 3), red, green and blue: whole numbers from 0 to 255 in an
            array, tensor, list or Pillow image.

    Raises:
        InvalidArgument: BAD_VALUE.
    """
    pixels = as_array(given, reason="BAD_VALUE", field="image")
    is_image = pixels.ndim in (2, 3) and pixels.shape[2:] in ((), (3,)) and pixels.dtype.kind in "iu"
    if not is_image or not (pixels.dtype == np.uint8 or 0 <= pixels.min(initial=0) <= pixels.max(initial=0) <= 255):
        what = f"an array of {pixels.dtype} of the shape {list(pixels.shape)}"
        message = f"the image is {what}; give whole numbers from 0 to 255, (height, width) or (height, width, 3)"
        raise InvalidArgument("BAD_VALUE", message, field="image")
    return pixels.astype(np.uint8, copy=False)


def uniforms(words_N: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Uniforms from 0 to below 1: the upper 53 bits of random words, so that any language can follow.

    >>> float(uniforms(np.array([1 << 63], np.uint64))[0])
    0.5
    """
    return (words_N >> np.uint64(11)).astype(np.float64) * 2.0**-53
