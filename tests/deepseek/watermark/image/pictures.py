"""Pictures for the tests of image marks: a photograph that comes with matplotlib, and noise."""

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

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


def origin(number: int) -> tuple[int, int]:
    """Where a pattern begins."""
    y, x = np.random.default_rng(number).integers(512, size=2)
    return int(y), int(x)


def a_key(epoch: int = 0) -> WatermarkKey:
    """A key of images."""
    return derive_key(bytes(32), tenant="lab", modality="image", epoch=epoch)
