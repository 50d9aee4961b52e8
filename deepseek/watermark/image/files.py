"""Image files in and out: what a mark must not lose beside the pixels (colour profile, EXIF, transparency), and what
is not taken at all.
"""

import io
import struct
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from common.errors import InvalidArgument
from deepseek.data.media import MAX_PIXELS, open_image
from deepseek.watermark.image.marker import Pixels

MAX_SIDE = 16_384
QUALITY = 95

_MODES = {"1": "L", "L": "L", "LA": "LA", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA"}
"""What each of Pillow's modes is taken as; those that are missing are refused."""


@dataclass(frozen=True)
class ImageFile:
    """A decoded file.

    Attributes:
        pixels: (height, width), grey, or (height, width, 3), red, green and blue; 0 to 255.
        alpha: (height, width), 0 to 255; None if all is opaque.
        format: PNG, JPEG or WEBP.
        kept: What goes into a file of this one's pixels beside them, as Pillow takes it.
    """

    pixels: Pixels
    alpha: Pixels | None
    format: str
    kept: dict[str, bytes] = field(repr=False)

    def encoded(self, pixels: Pixels, *, quality: int = QUALITY) -> bytes:
        """A file of the same format with other pixels, and all else of this one.

        Args:
            pixels: Of the same shape.
            quality: Of JPEG and WebP, 1 to 100; at 100 WebP loses nothing.

        Raises:
            InvalidArgument: BAD_VALUE.
        """
        if not 1 <= quality <= 100:
            message = f"encoding_quality is {quality}; take 1 to 100"
            raise InvalidArgument("BAD_VALUE", message, field="encoding_quality")
        assert pixels.shape == self.pixels.shape
        image = Image.fromarray(pixels)
        if self.alpha is not None:
            image.putalpha(Image.fromarray(self.alpha))
        options: dict[str, object] = {}
        if self.format == "JPEG":
            # Brightness, which carries the mark, is not subsampled anyway, and colours stay as sharp as they were.
            options = {"quality": quality, "subsampling": 0}
        elif self.format == "WEBP":
            options = {"quality": quality, "lossless": quality == 100, "exact": True}
        file = io.BytesIO()
        image.save(file, self.format, **options, **self.kept)
        return file.getvalue()


def read_image(data: bytes, *, field: str = "image") -> ImageFile:
    """Decodes a file wholly.

    Args:
        data: A PNG, JPEG or WebP file.
        field: For errors.

    Raises:
        InvalidArgument: DAMAGED_IMAGE; UNSUPPORTED_IMAGE (animated, CMYK, 16 bits a channel); IMAGE_TOO_LARGE.
    """
    _check_depth(data, field)
    with open_image(data, field=field) as image:
        width, height = image.size
        if max(width, height) > MAX_SIDE:
            message = (
                f"the image has {width} x {height} pixels; sides of {MAX_SIDE} and {MAX_PIXELS} in all are the most"
            )
            raise InvalidArgument("IMAGE_TOO_LARGE", message, field=field)
        if getattr(image, "n_frames", 1) > 1:
            message = "the image is animated; extract its frames and take one at a time"
            raise InvalidArgument("UNSUPPORTED_IMAGE", message, field=field)
        if image.mode not in _MODES:
            message = f"the image is {image.mode}; convert it to grey or RGB of 8 bits a channel"
            raise InvalidArgument("UNSUPPORTED_IMAGE", message, field=field)
        kept = {name: image.info[name] for name in ("icc_profile", "exif") if image.info.get(name)}
        has_alpha = image.mode in ("LA", "RGBA") or "transparency" in image.info
        mode = _MODES[image.mode]
        if not has_alpha:
            return ImageFile(np.asarray(image.convert(mode)), None, str(image.format), kept)
        whole = np.asarray(image.convert("LA" if mode in ("L", "LA") and image.mode != "1" else "RGBA"))
        pixels = whole[..., 0] if whole.shape[-1] == 2 else whole[..., :-1]
        return ImageFile(np.ascontiguousarray(pixels), whole[..., -1].copy(), str(image.format), kept)


def _check_depth(data: bytes, field: str) -> None:
    """Refuses a PNG of 16 bits a channel, of which Pillow would silently take half."""
    header = struct.Struct(">8s4x4s8xB")
    if len(data) >= header.size:
        signature, kind, depth = header.unpack_from(data)
        if signature == b"\x89PNG\r\n\x1a\n" and kind == b"IHDR" and depth > 8:
            message = f"the image has {depth} bits a channel; convert it to 8"
            raise InvalidArgument("UNSUPPORTED_IMAGE", message, field=field)
