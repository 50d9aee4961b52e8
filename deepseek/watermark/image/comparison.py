"""Pictures for human viewers: an image beside its marked copy, and an image with the region of a mark framed."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deepseek.watermark.image.detector import Region
from deepseek.watermark.image.pixels import Pixels

GAIN = 20
"""Amplification of the displayed difference between marked and original pixels. A difference of 0 is mid-grey."""

_HEIGHT, _MAX_WIDTH = 480, 960
_CAPTION = 28
_GAP = 8
_INK, _PAPER, _FRAME = (20, 20, 20), (255, 255, 255), (230, 30, 30)


def mark_picture(original: Pixels, marked: Pixels, caption: str) -> Image.Image:
    """Returns the original, the marked image and their amplified difference, side by side.

    Args:
        original: Original image.
        marked: Marked image of the same shape.
        caption: Caption of the marked image.
    """
    before, after = _scaled(original), _scaled(marked)
    amplified = 128 + GAIN * (np.asarray(after, np.int16) - np.asarray(before, np.int16))
    difference = Image.fromarray(np.clip(amplified, 0, 255).astype(np.uint8))
    images = (("original", before), (caption, after), (f"difference x {GAIN}", difference))
    width = sum(image.width for _, image in images) + _GAP * (len(images) + 1)
    sheet = Image.new("RGB", (width, _CAPTION + images[0][1].height + _GAP), _PAPER)
    draw, left = ImageDraw.Draw(sheet), _GAP
    for text, image in images:
        draw.text((left, 6), text, _INK, ImageFont.load_default(15))
        sheet.paste(image, (left, _CAPTION))
        left += image.width + _GAP
    return sheet


def region_picture(pixels: Pixels, region: Region) -> Image.Image:
    """Returns an image with a frame around the region in which a mark was found."""
    image = Image.fromarray(pixels).convert("RGB")
    thickness = max(2, min(image.size) // 150)
    box = (region.left, region.top, region.right - 1, region.bottom - 1)
    ImageDraw.Draw(image).rectangle(box, outline=_FRAME, width=thickness)
    return image


def _scaled(pixels: Pixels) -> Image.Image:
    """Returns an image scaled to fit a panel. Scaling down averages pixels, which keeps the mark's coarse structure."""
    image = Image.fromarray(pixels).convert("RGB")
    scale = min(_HEIGHT / image.height, _MAX_WIDTH / image.width)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)
