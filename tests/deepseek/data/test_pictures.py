"""Images of every format, orientation, depth and kind of transparency look as in viewers."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from common.errors import InvalidArgument
from deepseek.data.encoders import ImageEncoder
from deepseek.data.media import check_image, decode_image
from deepseek.data.pictures import BACKGROUND, as_shown
from tests.harness.images import one_row_png

ORIENTATION = 0x0112
FORMATS = ("PNG", "JPEG", "WEBP")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(
        file, kind, **{"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {}), **options
    )
    return file.getvalue()


def four_colours(width: int = 32, height: int = 16) -> Image.Image:
    """An image that looks different in each orientation."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = 255, 0, 0
    pixels[: height // 2, width // 2 :] = 0, 255, 0
    pixels[height // 2 :, : width // 2] = 0, 0, 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(four_colours(), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
        encoder = ImageEncoder(16)
        assert np.array_equal(encoder.encode(image), encoder.encode(data))
    seen = decode_image(data)
    assert seen.size == expected.size == ((32, 16) if orientation < 5 else (16, 32))
    assert np.array_equal(np.asarray(seen), np.asarray(expected))
    check_image(data)


def test_orientation_is_applied_once() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 2
    seen = decode_image(encoded(four_colours(), "JPEG", exif=exif))
    assert np.array_equal(np.asarray(as_shown(seen, "RGB")), np.asarray(seen))
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(seen)), np.asarray(seen))


def test_an_orientation_after_the_pixels_or_in_text_is_applied() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encoded(four_colours(), "PNG")
    block = exif.tobytes()[6:]
    late = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    assert decode_image(data[:-12] + late + data[-12:]).size == (16, 32)
    text, xmp = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n", zip=True)
    xmp.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    for info in (text, xmp):
        assert decode_image(encoded(four_colours(), "PNG", pnginfo=info)).size == (16, 32)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # from Pillow, which reads the resolution from EXIF
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0\0\x08\0\x02\x01\x12\0\x03"])
def test_pixels_are_read_despite_damaged_exif(kind: str, exif: bytes) -> None:
    data = encoded(four_colours(), kind, exif=exif)
    check_image(data)
    assert decode_image(data).size == (32, 16)


def sign(colour: int) -> Image.Image:
    """A black or white sign on a transparent background of the same hidden colour."""
    pixels = np.full((32, 32, 4), colour, np.uint8)
    pixels[..., 3] = 0
    pixels[8:24, 8:24, 3] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("colour", [0, 255])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("made", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "WEBP")])
def test_transparent_pixels_are_composited_onto_one_background(colour: int, mode: str, made: str, kind: str) -> None:
    image = sign(colour)
    image = image.quantize(4) if made == "P" else image.convert(made)
    for source in (encoded(image, kind, **({"exact": True} if kind == "WEBP" else {})), image):
        seen = np.asarray(decode_image(source, mode=mode) if isinstance(source, bytes) else as_shown(source, mode))
        assert (seen[16, 16] == colour).all()
        assert (seen[0, 0] == BACKGROUND).all()


def test_half_transparent_pixels_are_mixed() -> None:
    image = Image.new("RGBA", (2, 2), (255, 0, 100, 64))
    expected = [round((value * 64 + BACKGROUND * 191) / 255) for value in (255, 0, 100)]
    assert np.asarray(decode_image(encoded(image, "PNG")))[0, 0].tolist() == expected


TRNS = b"tRNS"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (one_row_png(1, 0, 2, b"\x40", (TRNS, b"\0\1")), [0, None]),
        (one_row_png(2, 0, 4, b"\x1b", (TRNS, b"\0\1")), [0, None, 170, 255]),
        (one_row_png(2, 0, 4, b"\x1b", (TRNS, b"\0\3")), [0, 85, 170, None]),
        (one_row_png(4, 0, 2, b"\x0f", (TRNS, b"\0\x0f")), [0, None]),
        (one_row_png(8, 0, 2, b"\x05\x06", (TRNS, b"\0\5")), [None, 6]),
        (one_row_png(16, 0, 3, struct.pack(">3H", 300, 301, 0xFFFF), (TRNS, struct.pack(">H", 300))), [None, 1, 255]),
        (one_row_png(8, 2, 2, b"\x09" * 3 + b"\x08" * 3, (TRNS, b"\0\x09" * 3)), [None, 8]),
        (one_row_png(16, 2, 2, b"\x12\x34" * 3 + b"\x34\x12" * 3, (TRNS, b"\x12\x34" * 3)), [None, 0x34]),
        (one_row_png(8, 3, 2, b"\0\1", (b"PLTE", b"\7" * 3 + b"\6" * 3), (TRNS, b"\0")), [None, 6]),
    ],
    ids=["grey 1", "grey 2", "grey 2, white", "grey 4", "grey 8", "grey 16", "colour 8", "colour 16", "palette"],
)
def test_the_transparent_colour_of_a_png_file_is_found_at_every_depth(data: bytes, expected: list[int | None]) -> None:
    check_image(data)
    seen = np.asarray(decode_image(data, mode="L"))[0].tolist()
    assert seen == [BACKGROUND if value is None else value for value in expected]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_16_bits_are_scaled_the_same_in_grey_and_colour(mode: str) -> None:
    ramp = np.arange(256, dtype=np.uint16) * 257
    grey = one_row_png(16, 0, 256, ramp.astype(">u2").tobytes())
    colour = one_row_png(16, 2, 256, ramp.astype(">u2").repeat(3).tobytes())
    with_alpha = one_row_png(16, 4, 256, np.stack([ramp, np.full(256, 0xFFFF)], 1).astype(">u2").tobytes())
    for data in (grey, colour, with_alpha):
        seen = np.asarray(decode_image(data, mode=mode)).reshape(256, -1)[:, 0]
        assert seen.tolist() == list(range(256))


def test_decoded_pictures_of_16_bits_are_scaled() -> None:
    ramp = (np.arange(256) * 257).reshape(16, 16)
    expected = np.arange(256).reshape(16, 16)
    for dtype in ("<u2", ">u2", np.int32):
        seen = ImageEncoder(16, "L").encode(Image.fromarray(ramp.astype(dtype)))
        assert np.array_equal(seen[..., 0], expected)


@pytest.mark.parametrize(
    "values", [np.array([[0, 70_000]], np.int32), np.array([[-1, 0]], np.int32), np.ones((1, 2), np.float32)]
)
def test_values_without_a_defined_range_are_refused(values: np.ndarray[Any, Any]) -> None:
    with pytest.raises(InvalidArgument, match="no defined range") as caught:
        ImageEncoder(2).encode(Image.fromarray(values))
    assert caught.value.reason == "WRONG_TYPE"
