"""Published marks for images, as their packages come: invisible-watermark and blind-watermark.

A peer is compared at the squared error of ours in the same image, whichever of the two is larger by nature. Where it
has a strength (the quantisation steps of blind-watermark, which its decoder is then told), that is set first, since
half a quantised mark is none; what is left to the same error is made up for by scaling what the peer changed. The
steps of dwtDctSvd are left alone: most of what it changes is rounding, and does not shrink with them.
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
from deepseek.watermark.image.marker import Pixels, squared_error

MIN_STRENGTH, MAX_STRENGTH = 0.125, 4.0
MAX_SCALE = 8.0
_TOO_SMALL = "image too small"

Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Peer:
    """A published mark. Images are (height, width, 3), red, green and blue.

    Attributes:
        package: What it comes in.
        module: What that is imported as.
        num_bits: How many bits it carries.
        has_strength: Whether a strength other than 1 means anything.
        embed: From an image, bits and a strength to the marked image, 0 to 255.
        decode: From an image and the strength to the bits; None if it refuses the image.
    """

    package: str
    module: str
    num_bits: int
    has_strength: bool
    embed: Callable[[Pixels, Bits, float], Real]
    decode: Callable[[Pixels, float], Bits | None]

    @property
    def version(self) -> str | None:
        """The version of the package; None if it is not installed."""
        return importlib.metadata.version(self.package) if importlib.util.find_spec(self.module) else None


@dataclass(frozen=True)
class Embedded:
    """An image that a peer marked.

    Attributes:
        pixels: At the squared error that was asked for.
        strength: For the decoder.
        native: As the peer marks by default.
    """

    pixels: Pixels
    strength: float
    native: Pixels


def embed_like(peer: Peer, pixels: Pixels, bits: Bits, error: float) -> Embedded:
    """Marks an image with a mean squared error."""
    marked, strength = peer.embed(pixels, bits, 1.0), 1.0
    native = rounded(marked)
    if peer.has_strength:
        strength = float(np.clip((error / squared_error(pixels, native)) ** 0.5, MIN_STRENGTH, MAX_STRENGTH))
        marked = peer.embed(pixels, bits, strength)
    return Embedded(scaled(pixels, marked - pixels, error), strength, native)


def scaled(pixels: Pixels, difference: Real, error: float) -> Pixels:
    """An image with a difference added that is scaled to a mean squared error; as little more as rounding allows."""
    low, high = 0.0, MAX_SCALE
    for _ in range(14):
        middle = (low + high) / 2
        is_less = squared_error(pixels, rounded(pixels + middle * difference)) < error
        low, high = (middle, high) if is_less else (low, middle)
    return rounded(pixels + high * difference)


def rounded(pixels: Real) -> Pixels:
    """Pixels of what was calculated."""
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _swapped(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Between red, green, blue and blue, green, red, which is what OpenCV and all peers take."""
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
    except RuntimeError as error:  # it takes no image of less than 256 x 256 pixels
        if _TOO_SMALL not in str(error):
            raise
        return None


@cache
def _blind_package() -> Any:
    # The package sets the start method when it is imported, which fails where there is one already.
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
