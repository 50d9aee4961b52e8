"""Pictures for the tests of image marks: a photograph that comes with matplotlib, noise, and a drawing."""

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from deepseek.watermark.image.marker import Pixels
from deepseek.watermark.keys import WatermarkKey, derive_key


@cache
def photograph(width: int = 472, height: int = 554) -> Pixels:
    """A portrait, (height, width, 3)."""
    path = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))


@cache
def texture(side: int = 512) -> Pixels:
    """Noise with the spectrum of pictures and no calm part, (side, side): there is hardly room for a mark."""
    random = np.random.default_rng(3)
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequencies[0, 0] = np.inf
    plane = np.fft.irfft2(np.fft.rfft2(random.normal(size=(side, side))) / frequencies)
    return np.asarray(np.clip(plane / plane.std() * 45 + 120, 0, 255), np.uint8)


@cache
def drawing(width: int = 600, height: int = 480) -> Pixels:
    """Bars, a line and words in flat colours on white, (height, width, 3): most of it hides nothing."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    colours = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")
    for i, colour in enumerate(colours):
        left, top = 60 + 85 * i, 120 + 37 * (5 * i % 7)
        draw.rectangle((left, top, left + 55, height - 60), fill=colour)
        draw.text((left, height - 50), f"part {i + 1}", fill="black", font_size=16)
    draw.line([(60 + 85 * i, 90 + 23 * (3 * i % 5)) for i in range(7)], fill="black", width=3)
    draw.text((60, 30), "What each part took", fill="black", font_size=24)
    return np.asarray(image)


def a_key(epoch: int = 0) -> WatermarkKey:
    """A key of images."""
    return derive_key(bytes(32), tenant="lab", modality="image", epoch=epoch)
