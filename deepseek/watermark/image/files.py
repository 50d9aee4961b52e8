"""Image files in and out: what a mark must not lose beside the pixels (colour profile, EXIF, XMP, resolution,
transparency), and what is not taken at all.

Pixels are upright, as viewers show them. A marked file stores them upright too, with that orientation, so programs that
apply the EXIF orientation and programs that ignore it both keep the mark, which a mirrored image would lose.
"""

import io
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from common.errors import InvalidArgument
from common.scalars import whole_number
from deepseek.data import exif, png
from deepseek.data.media import MAX_PIXELS, is_too_large, open_image
from deepseek.data.pictures import BACKGROUND, upright
from deepseek.watermark.image.marker import Pixels

MAX_SIDE = 16_384
QUALITY = 95

_PNG_XMP = "XML:com.adobe.xmp"
_KEPT = {
    "PNG": ("icc_profile", "srgb", "gamma", "chromaticity", "exif", "xmp", "dpi"),
    "JPEG": ("icc_profile", "exif", "xmp", "dpi"),
    "WEBP": ("icc_profile", "exif", "xmp"),
}
"""What is kept of a file of each format, as Pillow calls it."""

_HELD = {"exif": 65_533, "xmp": 65_504}
"""Bytes that a JPEG file holds in one segment; files from elsewhere may have spread EXIF over several."""

_MOST_DPI = 65_535

_MODES = {"1": "L", "L": "L", "LA": "LA", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA"}
"""What each of Pillow's modes is taken as; those that are missing are refused."""


@dataclass(frozen=True)
class ImageFile:
    """A decoded file.

    Attributes:
        pixels: (height, width), grey, or (height, width, 3), red, green and blue; 0 to 255; upright.
        alpha: (height, width), 0 to 255; None if all is opaque.
        format: PNG, JPEG or WEBP.
        kept: What goes into a file of this one's pixels beside them, as Pillow takes it.
    """

    pixels: Pixels
    alpha: Pixels | None
    format: str
    kept: dict[str, Any] = field(repr=False)

    def flattened(self) -> Pixels:
        """The pixels as a viewer shows them, over grey where they are transparent."""
        if self.alpha is None:
            return self.pixels
        flat = np.empty_like(self.pixels)
        for row, alpha in enumerate(self.alpha.astype(np.uint16)):  # a row at a time, for the sake of memory
            opacity = alpha.reshape(-1, *[1] * (self.pixels.ndim - 2))
            flat[row] = (self.pixels[row] * opacity + BACKGROUND * (255 - opacity) + 127) // 255
        return flat

    def encoded(self, pixels: Pixels, *, quality: int = QUALITY) -> bytes:
        """A file of the same format with other pixels, and all else of this one.

        Args:
            pixels: Of the same shape.
            quality: Of JPEG and WebP, 1 to 100; at 100 WebP loses nothing.

        Raises:
            InvalidArgument: BAD_VALUE.
        """
        quality = whole_number(quality, "encoding_quality")
        if not 1 <= quality <= 100:
            message = f"encoding_quality is {quality}; take 1 to 100"
            raise InvalidArgument("BAD_VALUE", message, field="encoding_quality")
        assert pixels.shape == self.pixels.shape
        image = Image.fromarray(pixels)
        if self.alpha is not None:
            image.putalpha(Image.fromarray(self.alpha))
        options = dict(self.kept)
        if self.format == "JPEG":
            # Brightness, which carries the mark, is not subsampled anyway, and colours stay as sharp as they were.
            options |= {"quality": quality, "subsampling": 0}
        elif self.format == "WEBP":
            options |= {"quality": quality, "lossless": quality == 100, "exact": True}
        else:
            options["pnginfo"] = _png_chunks(options)
        file = io.BytesIO()
        image.save(file, self.format, **options)
        return file.getvalue()

    def check_held(self, *, field: str = "image") -> None:
        """Makes sure that a file of this one's format can hold what is kept.

        Raises:
            InvalidArgument: UNSUPPORTED_IMAGE.
        """
        for name, most in _HELD.items():
            if self.format == "JPEG" and (size := len(self.kept.get(name, b""))) > most:
                message = (
                    f"the image has {size} bytes of {name.upper()}, a JPEG file holds {most}; take its preview out"
                )
                raise InvalidArgument("UNSUPPORTED_IMAGE", message, field=field)


def _png_chunks(kept: dict[str, Any]) -> PngImagePlugin.PngInfo:
    """Takes out what Pillow writes to PNG only as chunks (PNG specification, 11.3.2: whole numbers of 1 / 100,000)."""
    chunks = PngImagePlugin.PngInfo()
    if "srgb" in kept:
        chunks.add(b"sRGB", struct.pack(">B", kept.pop("srgb")))
    for name, chunk in (("gamma", b"gAMA"), ("chromaticity", b"cHRM")):
        if name in kept:
            values = np.rint(np.atleast_1d(kept.pop(name)) * 100_000)
            chunks.add(chunk, values.astype(">u4").tobytes())
    if "xmp" in kept:
        chunks.add_itxt(_PNG_XMP, kept.pop("xmp").decode("utf-8", "replace"))
    return chunks


def read_image(data: bytes, *, field: str = "image") -> ImageFile:
    """Decodes a file wholly.

    Args:
        data: A PNG, JPEG or WebP file; of a JPEG with several pictures, as cameras make them, the first is taken.
        field: For errors.

    Raises:
        InvalidArgument: DAMAGED_IMAGE; UNSUPPORTED_IMAGE (neither of these formats, animated, CMYK, 16 bits a channel);
            IMAGE_TOO_LARGE.
    """
    _check_head(data, field)
    with open_image(data, field=field) as image:
        file_format = "JPEG" if image.format == "MPO" else str(image.format)
        if file_format != "JPEG" and getattr(image, "n_frames", 1) > 1:
            message = "the image is animated; extract its frames and take one at a time"
            raise InvalidArgument("UNSUPPORTED_IMAGE", message, field=field)
        if image.mode not in _MODES:
            message = f"the image is {image.mode}; convert it to grey or RGB of 8 bits a channel"
            raise InvalidArgument("UNSUPPORTED_IMAGE", message, field=field)
        image.load()  # what stands behind the pixels is known only then
        kept = {name: image.info[name] for name in _KEPT[file_format] if image.info.get(name) not in (None, b"")}
        if "icc_profile" not in kept and (profile := png.profile(data)):  # a profile that Pillow considers too large
            kept["icc_profile"] = profile
        if "dpi" in kept and not all(0 < one <= _MOST_DPI for one in kept["dpi"]):
            del kept["dpi"]
        if (turn := exif.orientation(image.info)) != exif.UPRIGHT:
            kept = _upright(kept, turn)
            image = upright(image)
        has_alpha = image.mode in ("LA", "RGBA") or "transparency" in image.info
        mode = _MODES[image.mode]
        if not has_alpha:
            return ImageFile(np.asarray(image.convert(mode)), None, file_format, kept)
        whole = np.asarray(image.convert("LA" if mode in ("L", "LA") and image.mode != "1" else "RGBA"))
        pixels = whole[..., 0] if whole.shape[-1] == 2 else whole[..., :-1]
        return ImageFile(np.ascontiguousarray(pixels), whole[..., -1].copy(), file_format, kept)


def _upright(kept: dict[str, Any], was: int) -> dict[str, Any]:
    """Returns the metadata to keep of a file whose pixels were rotated."""
    kept = dict(kept)
    if "exif" in kept:
        kept["exif"] = exif.upright_exif(kept["exif"], was)
    if "xmp" in kept:
        kept["xmp"] = exif.upright_xmp(kept["xmp"])
    if "dpi" in kept and exif.swaps_sides(was):
        kept["dpi"] = kept["dpi"][::-1]
    return kept


def _check_head(data: bytes, field: str) -> None:
    """Refuses what its first bytes show: other formats, sizes that are not taken, and PNG of 16 bits a channel, of
    which Pillow would silently take half.
    """
    is_webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    if not is_webp and not data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8")):
        message = "the file is neither PNG, JPEG nor WebP; convert it to one of these"
        raise InvalidArgument("UNSUPPORTED_IMAGE", message, field=field)
    if data[1:4] == b"PNG" and data[12:16] == b"IHDR" and len(data) > 24 and data[24] > 8:
        message = f"the image has {data[24]} bits a channel; convert it to 8"
        raise InvalidArgument("UNSUPPORTED_IMAGE", message, field=field)
    if is_too_large(data, MAX_SIDE):
        message = f"the image has a side above {MAX_SIDE} pixels, or more than {MAX_PIXELS} in all; make it smaller"
        raise InvalidArgument("IMAGE_TOO_LARGE", message, field=field)
