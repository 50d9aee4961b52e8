"""Pictures to mark."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def pixels(seed: int = 0, height: int = 256, width: int = 320) -> Pixels:
    """Smooth shapes with some noise, as photographs have them; (height, width, 3)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    shapes = 128 + 50 * np.sin(x / random.uniform(15, 40)) + 40 * np.cos(y / random.uniform(10, 30))
    noise = random.normal(0, 10, (height, width, 1))
    whole = shapes[..., None] + noise + np.array([10, 0, -20])
    return np.asarray(np.clip(whole, 0, 255), np.uint8)


def encoded(of: Pixels, format: str = "PNG", **options: object) -> bytes:
    """A file."""
    file = io.BytesIO()
    Image.fromarray(of).save(file, format, **options)
    return file.getvalue()


def decoded(data: bytes) -> Pixels:
    """A file's pixels."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


PNG = encoded(pixels())
