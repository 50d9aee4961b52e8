"""Images as viewers show them: upright, composited onto one background, in 8 bits per channel.

Encoders, data sets and watermarks all read images through this module, so all of them see the same pixels. Colour
profiles are not applied.
"""

import numpy as np
from PIL import Image, ImageChops

from common.errors import InvalidArgument
from deepseek.data import exif

BACKGROUND = 128
"""Grey level behind transparent pixels. Both black and white content remain visible on it."""

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
"""Metadata that would be applied a second time if it remained."""
_MOST_16_BITS = 0xFFFF


def as_shown(image: Image.Image, mode: str) -> Image.Image:
    """Returns an image as viewers show it.

    Args:
        image: An image as Pillow opened it; its orientation is read from EXIF or XMP.
        mode: `RGB` or `L`.

    Returns:
        A new image of this mode, without the metadata that was applied.

    Raises:
        InvalidArgument: WRONG_TYPE if the values of the image have no defined range (mode `F`, and `I` beyond 16 bits).
    """
    image.load()  # metadata may follow the pixels
    shown = _flat(_in_8_bits(upright(image)), mode)
    for name in _APPLIED:
        shown.info.pop(name, None)
    return shown


def upright(image: Image.Image) -> Image.Image:
    """Returns the image rotated upright, with its metadata unchanged; the image itself if it is upright."""
    turn = _TURNS.get(exif.orientation(image.info))
    return image if turn is None else image.transpose(turn)


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Returns an image of at most 8 bits per channel: the upper 8 of 16, as Pillow itself reads 16-bit colour."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    if image.mode == "F" or (image.mode == "I" and not 0 <= values.min() <= values.max() <= _MOST_16_BITS):
        message = (
            f"the image has the mode {image.mode} and values from {values.min():g} to {values.max():g}, which have no "
            "defined range; scale it to 0 to 255 and convert it to L"
        )
        raise InvalidArgument("WRONG_TYPE", message)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if (hidden := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return grey


def _flat(image: Image.Image, mode: str) -> Image.Image:
    """Returns an image without transparency."""
    if not image.has_transparency_data:
        return image.convert(mode)
    if image.mode not in ("LA", "RGBA"):
        image = image.convert("RGBA")
    hidden = ImageChops.invert(image.getchannel("A"))
    flat = image.convert(mode)
    flat.paste((BACKGROUND,) * len(flat.getbands()), mask=hidden)
    return flat
