"""Reads and writes image files, keeping the colour profile, EXIF, XMP, resolution and transparency.

Pixels are decoded upright, as viewers show them. A marked file stores upright pixels, and its metadata says so.
Programs therefore show the same image whether they apply the EXIF orientation or ignore it. If pixels were stored as
they are in the original, a program that ignores the orientation could show a mirrored image, because some orientations
imply mirroring; a mark does not survive mirroring.
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
from deepseek.watermark.image.pixels import Pixels

MAX_SIDE = 16_384
QUALITY = 95

_PNG_XMP = "XML:com.adobe.xmp"
_KEPT = {
    "PNG": ("icc_profile", "srgb", "gamma", "chromaticity", "exif", "xmp", "dpi"),
    "JPEG": ("icc_profile", "exif", "xmp", "dpi"),
    "WEBP": ("icc_profile", "exif", "xmp"),
}
"""Metadata to keep for each format, under the names that Pillow uses."""

_HELD = {"exif": 65_533, "xmp": 65_504}
"""Maximum size of EXIF and XMP in one JPEG segment, in bytes. A file may have more EXIF, because other programs can
split EXIF into several segments."""

_MOST_DPI = 65_535

_MODES = {"1": "L", "L": "L", "LA": "LA", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA"}
"""The Pillow mode to which each supported mode is converted; any other mode is rejected."""


@dataclass(frozen=True)
class ImageFile:
    """A decoded image file.

    Attributes:
        pixels: Upright pixels.
        alpha: Opacity, (height, width), 0 to 255; None if the image is opaque.
        format: PNG, JPEG or WEBP.
        kept: Metadata to write with the pixels, as arguments for Pillow's `save`.
    """

    pixels: Pixels
    alpha: Pixels | None
    format: str
    kept: dict[str, Any] = field(repr=False)

    def flattened(self) -> Pixels:
        """Returns the pixels composited onto mid-grey."""
        if self.alpha is None:
            return self.pixels
        flat = np.empty_like(self.pixels)
        for row, alpha in enumerate(self.alpha.astype(np.uint16)):  # one row at a time, to save memory
            opacity = alpha.reshape(-1, *[1] * (self.pixels.ndim - 2))
            flat[row] = (self.pixels[row] * opacity + BACKGROUND * (255 - opacity) + 127) // 255
        return flat

    def encoded(self, pixels: Pixels, *, quality: int = QUALITY) -> bytes:
        """Returns the bytes of a file with the given pixels and this file's format, transparency and metadata.

        Args:
            pixels: Pixels of the same shape as this file's.
            quality: Encoding quality for JPEG and WebP, 1 to 100. At 100, WebP is lossless.

        Raises:
            InvalidArgument: BAD_VALUE if the quality is out of range.
        """
        quality = whole_number(quality, "encoding_quality")
        if not 1 <= quality <= 100:
            message = f"encoding_quality is {quality}; use 1 to 100"
            raise InvalidArgument("BAD_VALUE", message, field="encoding_quality")
        assert pixels.shape == self.pixels.shape
        image = Image.fromarray(pixels)
        if self.alpha is not None:
            image.putalpha(Image.fromarray(self.alpha))
        options = dict(self.kept)
        if self.format == "JPEG":
            # JPEG never subsamples brightness, which carries the mark. Disabling subsampling keeps colours sharp too.
            options |= {"quality": quality, "subsampling": 0}
        elif self.format == "WEBP":
            options |= {"quality": quality, "lossless": quality == 100, "exact": True}
        else:
            options["pnginfo"] = _png_chunks(options)
        file = io.BytesIO()
        image.save(file, self.format, **options)
        return file.getvalue()

    def check_held(self, *, field: str = "image") -> None:
        """Checks that a file of this format can hold this file's metadata.

        Raises:
            InvalidArgument: UNSUPPORTED_IMAGE if the metadata is too large.
        """
        for name, most in _HELD.items():
            if self.format == "JPEG" and (size := len(self.kept.get(name, b""))) > most:
                message = f"the image has {size} bytes of {name.upper()}; JPEG allows {most}; remove e.g. previews"
                raise InvalidArgument("UNSUPPORTED_IMAGE", message, field=field)


def _png_chunks(kept: dict[str, Any]) -> PngImagePlugin.PngInfo:
    """Returns PNG chunks for the metadata that Pillow does not write by itself, and removes this metadata from `kept`.

    Gamma and chromaticities are stored as multiples of 1 / 100,000 (PNG specification, section 11.3.2).
    """
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
    """Decodes an image file completely.

    Args:
        data: PNG, JPEG or WebP file. If a JPEG contains several pictures (some cameras write such files), the first is
            used.
        field: Path of the field that holds the file in the caller's request; errors report it.

    Raises:
        InvalidArgument: DAMAGED_IMAGE if the file cannot be decoded; UNSUPPORTED_IMAGE if it has another format or a
            colour mode other than grey and RGB (e.g. CMYK), is animated, or has 16 bits per channel; IMAGE_TOO_LARGE.
    """
    _check_head(data, field)
    with open_image(data, field=field) as image:
        file_format = "JPEG" if image.format == "MPO" else str(image.format)
        if file_format != "JPEG" and getattr(image, "n_frames", 1) > 1:
            message = "the image is animated; extract its frames and send them one at a time"
            raise InvalidArgument("UNSUPPORTED_IMAGE", message, field=field)
        if image.mode not in _MODES:
            message = f"the image has colour mode {image.mode}; convert it to grey or RGB with 8 bits per channel"
            raise InvalidArgument("UNSUPPORTED_IMAGE", message, field=field)
        image.load()  # metadata may follow the pixels
        kept = {name: image.info[name] for name in _KEPT[file_format] if image.info.get(name) not in (None, b"")}
        if "icc_profile" not in kept and (profile := png.profile(data)):
            kept["icc_profile"] = profile  # Pillow drops profiles that it considers too large
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
    """Returns a file's metadata, adapted to pixels that have been rotated upright."""
    kept = dict(kept)
    if "exif" in kept:
        kept["exif"] = exif.upright_exif(kept["exif"], was)
    if "xmp" in kept:
        kept["xmp"] = exif.upright_xmp(kept["xmp"])
    if "dpi" in kept and exif.swaps_sides(was):
        kept["dpi"] = kept["dpi"][::-1]
    return kept


def _check_head(data: bytes, field: str) -> None:
    """Rejects unsupported formats, images that are too large, and PNG files with 16 bits per channel.

    The checks read headers only. Pillow would read a PNG with 16 bits per channel, but silently drop half of the bits.
    """
    is_webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    if not is_webp and not data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8")):
        message = "the file is neither PNG, JPEG nor WebP; convert it to one of these formats"
        raise InvalidArgument("UNSUPPORTED_IMAGE", message, field=field)
    if data[1:4] == b"PNG" and data[12:16] == b"IHDR" and len(data) > 24 and data[24] > 8:
        message = f"the image has {data[24]} bits per channel; convert it to 8"
        raise InvalidArgument("UNSUPPORTED_IMAGE", message, field=field)
    if is_too_large(data, MAX_SIDE):
        message = f"the image has a side above {MAX_SIDE} pixels, or more than {MAX_PIXELS} in total; scale it down"
        raise InvalidArgument("IMAGE_TOO_LARGE", message, field=field)
