"""Images for tests: noise, waves, a photograph, a drawing, and files of them."""

import io
import struct
import zlib
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Pixels = npt.NDArray[np.uint8]
"""An image of shape (height, width, 3)."""


def one_row_png(depth: int, colour: int, width: int, row: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Returns a PNG file of one row, of any type."""
    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def image_file(seed: int = 0, size: tuple[int, int] = (16, 12), kind: str = "PNG") -> bytes:
    """Returns a picture of coloured noise; size is width and height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind)
    return sink.getvalue()


def pixels(seed: int = 0, height: int = 256, width: int = 320) -> Pixels:
    """Returns smooth shapes with some noise, as in photographs; (height, width, 3)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    shapes = 128 + 50 * np.sin(x / random.uniform(15, 40)) + 40 * np.cos(y / random.uniform(10, 30))
    noise = random.normal(0, 10, (height, width, 1))
    whole = shapes[..., None] + noise + np.array([10, 0, -20])
    return np.asarray(np.clip(whole, 0, 255), np.uint8)


def encoded(of: Pixels, format: str = "PNG", **options: object) -> bytes:
    """Returns a file with these pixels."""
    file = io.BytesIO()
    Image.fromarray(of).save(file, format, **options)
    return file.getvalue()


def decoded(data: bytes) -> Pixels:
    """Returns the pixels of a file."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


PNG = encoded(pixels())


@cache
def photograph(width: int = 472, height: int = 554) -> Pixels:
    """Returns a portrait, (height, width, 3)."""
    path = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))


@cache
def texture(side: int = 512) -> Pixels:
    """Returns noise with a natural spectrum, (side, side); it has no flat part and can hide little."""
    random = np.random.default_rng(3)
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequencies[0, 0] = np.inf
    plane = np.fft.irfft2(np.fft.rfft2(random.normal(size=(side, side))) / frequencies)
    return np.asarray(np.clip(plane / plane.std() * 45 + 120, 0, 255), np.uint8)


@cache
def drawing(width: int = 600, height: int = 480) -> Pixels:
    """Returns bars, a line and words in flat colours on white, (height, width, 3); most of it can hide nothing."""
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
