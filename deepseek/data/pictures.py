"""Pictures as viewers show them: upright, over one background, in 8 bits.

Whatever an encoder, a data set or a watermark sees of a picture has gone through here, so all of them see the same.
Colour profiles are not applied.
"""

import numpy as np
from PIL import Image, ImageChops

from common.errors import InvalidArgument
from deepseek.data import exif

BACKGROUND = 128
"""Grey level behind what is transparent. On it, signs in black and in white both remain visible."""

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
    """Returns a picture as viewers show it.

    Args:
        image: A picture, as opened; its orientation is that of its EXIF or XMP.
        mode: `RGB` or `L`.

    Returns:
        A new image of this mode, without the metadata that was applied.

    Raises:
        InvalidArgument: WRONG_TYPE if the values of the picture have no stated range (modes `F`, and `I` beyond 16
            bits).
    """
    image.load()  # metadata may follow the pixels
    shown = _flat(_in_8_bits(upright(image)), mode)
    for name in _APPLIED:
        shown.info.pop(name, None)
    return shown


def upright(image: Image.Image) -> Image.Image:
    """Returns a picture turned as its orientation says, with its metadata as it was; itself if it lies upright."""
    turn = _TURNS.get(exif.orientation(image.info))
    return image if turn is None else image.transpose(turn)


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Returns a picture of at most 8 bits per channel: of 16, the upper 8, as Pillow itself reads colours of 16."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    if image.mode == "F" or (image.mode == "I" and not 0 <= values.min() <= values.max() <= _MOST_16_BITS):
        message = (
            f"the image has the mode {image.mode} and values from {values.min():g} to {values.max():g}, of no stated "
            "range; scale it to 0 to 255 and convert it to L"
        )
        raise InvalidArgument("WRONG_TYPE", message)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if (hidden := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return grey


def _flat(image: Image.Image, mode: str) -> Image.Image:
    """Returns a picture without transparency."""
    if not image.has_transparency_data:
        return image.convert(mode)
    if image.mode not in ("LA", "RGBA"):
        image = image.convert("RGBA")
    hidden = ImageChops.invert(image.getchannel("A"))
    flat = image.convert(mode)
    flat.paste((BACKGROUND,) * len(flat.getbands()), mask=hidden)
    return flat
