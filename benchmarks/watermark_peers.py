"""Peers: published image marks, from the packages invisible-watermark and blind-watermark.

The changes that a peer makes to an image are scaled so that their squared error matches that of our mark in the same
image. A mark of blind-watermark is quantized, and cannot be read if it is only scaled down. So the strength of the mark
(the size of the quantization steps, which the decoder needs too) is adjusted first. The strength of dwtDctSvd is not
adjusted: most of the changes that it makes are rounding errors, which do not shrink with the quantization steps.
"""

import importlib.metadata
import importlib.util
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek.watermark.arrays import Real
from deepseek.watermark.image.pixels import Pixels
from deepseek.watermark.image.quality import squared_error

MIN_STRENGTH, MAX_STRENGTH = 0.125, 4.0
MAX_SCALE = 8.0
_TOO_SMALL = "image too small"

Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Peer:
    """A published mark. Images are RGB arrays [height, width, 3].

    Attributes:
        package: Package that implements the mark.
        module: Name by which the package is imported.
        num_bits: Number of bits in the mark.
        has_strength: Whether a strength other than 1 has an effect.
        embed: Function that maps an image, bits and a strength to the marked image, with values from 0 to 255.
        decode: Function that maps an image and the strength to the bits, or to None if the peer rejects the image.
    """

    package: str
    module: str
    num_bits: int
    has_strength: bool
    embed: Callable[[Pixels, Bits, float], Real]
    decode: Callable[[Pixels, float], Bits | None]

    @property
    def version(self) -> str | None:
        """Version of the package, or None if the package is not installed."""
        return importlib.metadata.version(self.package) if importlib.util.find_spec(self.module) else None


@dataclass(frozen=True)
class Embedded:
    """An image that a peer marked.

    Attributes:
        pixels: Marked image with the requested squared error.
        strength: Strength of the mark, which the decoder needs.
        native: Image as the peer marks it by default, with a different squared error.
    """

    pixels: Pixels
    strength: float
    native: Pixels


def embed_like(peer: Peer, pixels: Pixels, bits: Bits, error: float) -> Embedded:
    """Marks an image with a peer's mark of a given mean squared error."""
    marked, strength = peer.embed(pixels, bits, 1.0), 1.0
    native = rounded(marked)
    if peer.has_strength:
        strength = float(np.clip((error / squared_error(pixels, native)) ** 0.5, MIN_STRENGTH, MAX_STRENGTH))
        marked = peer.embed(pixels, bits, strength)
    return Embedded(scaled(pixels, marked - pixels, error), strength, native)


def scaled(pixels: Pixels, difference: Real, error: float) -> Pixels:
    """Adds a difference to an image, scaled so that the mean squared error is `error` or, by rounding, a bit more."""
    low, high = 0.0, MAX_SCALE
    for _ in range(14):
        middle = (low + high) / 2
        is_less = squared_error(pixels, rounded(pixels + middle * difference)) < error
        low, high = (middle, high) if is_less else (low, middle)
    return rounded(pixels + high * difference)


def rounded(pixels: Real) -> Pixels:
    """Rounds and clips real values to pixel values."""
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _swapped(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Converts between RGB and BGR. OpenCV and all peers use BGR."""
    return np.ascontiguousarray(pixels[..., ::-1])


def _embed_svd(pixels: Pixels, bits: Bits, strength: float) -> Real:
    return _encoded("dwtDctSvd", pixels, bits)


def _decode_svd(pixels: Pixels, strength: float) -> Bits | None:
    return _decoded("dwtDctSvd", pixels, 64)


def _embed_gan(pixels: Pixels, bits: Bits, strength: float) -> Real:
    _load_gan()
    return _encoded("rivaGan", pixels, bits)


def _decode_gan(pixels: Pixels, strength: float) -> Bits | None:
    _load_gan()
    return _decoded("rivaGan", pixels, 32)


@cache
def _load_gan() -> None:
    from imwatermark import WatermarkEncoder

    WatermarkEncoder.loadModel()


def _encoded(method: str, pixels: Pixels, bits: Bits) -> Real:
    from imwatermark import WatermarkEncoder

    encoder = WatermarkEncoder()
    encoder.set_watermark("bits", bits.tolist())
    return _swapped(encoder.encode(_swapped(pixels), method)).astype(np.float32)


def _decoded(method: str, pixels: Pixels, num_bits: int) -> Bits | None:
    from imwatermark import WatermarkDecoder

    try:
        return np.asarray(WatermarkDecoder("bits", num_bits).decode(_swapped(pixels), method), np.uint8)
    except RuntimeError as error:  # the package rejects images below 256 x 256 pixels
        if _TOO_SMALL not in str(error):
            raise
        return None


@cache
def _blind_package() -> Any:
    # At import, the package sets the start method of processes, which fails if the method has been set before.
    multiprocessing.set_start_method(None, force=True)
    import blind_watermark

    blind_watermark.bw_notes.close()
    return blind_watermark


def _blind(strength: float) -> Any:
    mark = _blind_package().WaterMark()
    mark.bwm_core.d1 *= strength
    mark.bwm_core.d2 *= strength
    return mark


def _embed_blind(pixels: Pixels, bits: Bits, strength: float) -> Real:
    mark = _blind(strength)
    mark.read_img(img=_swapped(pixels))
    mark.read_wm(bits, "bit")
    return _swapped(mark.embed())


def _decode_blind(pixels: Pixels, strength: float) -> Bits | None:
    read = _blind(strength).extract(embed_img=_swapped(pixels), wm_shape=64, mode="bit")
    return np.asarray(read, np.uint8)


PEERS = {
    "dwtDctSvd": Peer("invisible-watermark", "imwatermark", 64, False, _embed_svd, _decode_svd),
    "blind-watermark": Peer("blind-watermark", "blind_watermark", 64, True, _embed_blind, _decode_blind),
    "rivaGan": Peer("invisible-watermark", "imwatermark", 32, False, _embed_gan, _decode_gan),
}
