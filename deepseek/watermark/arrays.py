"""Array types, validation of pixels from callers, and conversion of random words to uniform numbers."""

from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument
from deepseek.arrays import as_array

Real = npt.NDArray[np.floating]
Complex = npt.NDArray[np.complexfloating]


def check_pixels(given: Any) -> npt.NDArray[np.uint8]:
    """Returns the pixels of an image as a uint8 array of the same shape.

    Args:
        given: Array, tensor, list or Pillow image. Its values are integers from 0 to 255, and its shape is
            (height, width) for grey or (height, width, 3) for RGB.

    Raises:
        InvalidArgument: BAD_VALUE if the array has another shape or type, or contains a value outside 0 to 255.
    """
    pixels = as_array(given, reason="BAD_VALUE", field="image")
    is_image = pixels.ndim in (2, 3) and pixels.shape[2:] in ((), (3,)) and pixels.dtype.kind in "iu"
    if not is_image or not (pixels.dtype == np.uint8 or 0 <= pixels.min(initial=0) <= pixels.max(initial=0) <= 255):
        what = f"an array of {pixels.dtype} with shape {list(pixels.shape)}"
        shapes = "(height, width) or (height, width, 3)"
        message = f"the image is {what}; pass integers from 0 to 255 in an array with shape {shapes}"
        raise InvalidArgument("BAD_VALUE", message, field="image")
    return pixels.astype(np.uint8, copy=False)


def uniforms(words_N: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Converts random 64-bit words to uniform numbers in [0, 1), using the upper 53 bits of each word.

    The conversion is simple enough to reproduce in any programming language.

    >>> float(uniforms(np.array([1 << 63], np.uint64))[0])
    0.5
    """
    return (words_N >> np.uint64(11)).astype(np.float64) * 2.0**-53
