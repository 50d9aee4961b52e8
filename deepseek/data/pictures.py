"""Converts images to the pixels that image viewers show: upright, without transparency, with 8 bits per channel.

Encoders, data sets and watermarks all use this module, so they all see the same pixels. Colour profiles are not
applied.
"""

import numpy as np
from PIL import Image, ImageChops

from common.errors import InvalidArgument
from deepseek.data import exif

BACKGROUND = 128
"""Grey level of the background behind transparent pixels. Black and white content both remain visible on it."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_APPLIED = ("exif", "xmp", "XML:com.adobe.xmp", exif.RAW_PROFILE, "transparency")
"""Metadata that is removed after it has been applied to the pixels. Otherwise, readers would apply it again."""
_MOST_16_BITS = 0xFFFF


def as_shown(image: Image.Image, mode: str) -> Image.Image:
    """Returns an image as image viewers show it.

    Args:
        image: Image as opened by Pillow. The orientation is read from the EXIF or XMP metadata of the image.
        mode: `RGB` or `L`.

    Returns:
        A new image of the given mode. Metadata that has been applied to the pixels is removed.

    Raises:
        InvalidArgument: WRONG_TYPE if it is not defined which pixel values mean black and white, i.e. if the image has
            mode `F`, or mode `I` with values outside the range 0 to 65,535.
    """
    image.load()  # metadata may follow the pixels
    shown = _flat(_in_8_bits(upright(image)), mode)
    for name in _APPLIED:
        shown.info.pop(name, None)
    return shown


def upright(image: Image.Image) -> Image.Image:
    """Returns an upright copy of an image, or the image itself if it is upright. The metadata is not changed."""
    turn = _TURNS.get(exif.orientation(image.info))
    return image if turn is None else image.transpose(turn)


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Returns an image with at most 8 bits per channel.

    A 16-bit value is reduced to its upper 8 bits, as Pillow itself does for colour images.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    if image.mode == "F" or (image.mode == "I" and not 0 <= values.min() <= values.max() <= _MOST_16_BITS):
        message = (
            f"the image has the mode {image.mode} and values from {values.min():g} to {values.max():g}, which have no "
            "defined range; scale the values to 0 to 255 and convert the image to mode L"
        )
        raise InvalidArgument("WRONG_TYPE", message)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if (hidden := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return grey


def _flat(image: Image.Image, mode: str) -> Image.Image:
    """Returns an image in the given mode, with its transparent pixels blended onto the grey BACKGROUND."""
    if not image.has_transparency_data:
        return image.convert(mode)
    if image.mode not in ("LA", "RGBA"):
        image = image.convert("RGBA")
    hidden = ImageChops.invert(image.getchannel("A"))
    flat = image.convert(mode)
    flat.paste((BACKGROUND,) * len(flat.getbands()), mask=hidden)
    return flat
