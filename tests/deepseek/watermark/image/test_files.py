"""Image files are read and written with their metadata, and unsupported ones are refused."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from common.errors import InvalidArgument
from deepseek.watermark.image.files import MAX_SIDE, ImageFile, read_image
from tests.harness.images import photograph

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DESCRIPTION, ORIENTATION = 0x010E, 0x0112


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def an_image(mode: str) -> Image.Image:
    image = Image.fromarray(photograph(150, 140))
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(np.tile(np.arange(150, dtype=np.uint8), (140, 1))))
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind", "kept"),
    [
        ("RGB", "PNG", "RGB"),
        ("RGB", "JPEG", "RGB"),
        ("RGB", "WEBP", "RGB"),
        ("RGBA", "PNG", "RGBA"),
        ("RGBA", "WEBP", "RGBA"),
        ("L", "PNG", "L"),
        ("L", "JPEG", "L"),
        ("LA", "PNG", "LA"),
        ("P", "PNG", "RGB"),
        ("1", "PNG", "L"),
    ],
)
def test_format_profile_exif_and_transparency_are_kept(mode: str, kind: str, kept: str) -> None:
    exif = Image.Exif()
    exif[DESCRIPTION], exif[ORIENTATION] = "a portrait", 1
    original = an_image(mode)
    image = read_image(encoded(original, kind, icc_profile=PROFILE, exif=exif.tobytes()))
    result = Image.open(io.BytesIO(image.encoded(image.pixels, quality=100)))
    assert (result.format, result.mode, result.size) == (kind, kept, original.size)
    assert result.info["icc_profile"] == PROFILE
    assert dict(result.getexif()) == {DESCRIPTION: "a portrait", ORIENTATION: 1}
    if kept in ("LA", "RGBA"):
        assert (np.asarray(result)[..., -1] == np.asarray(original)[..., -1]).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_upright_and_the_file_says_so(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[DESCRIPTION], exif[ORIENTATION] = "a portrait", orientation
    mode = "RGB" if kind == "JPEG" else "RGBA"
    options = {"PNG": {"dpi": (300, 72)}, "JPEG": {"dpi": (300, 72)}, "WEBP": {"lossless": True, "exact": True}}[kind]
    data = encoded(an_image(mode), kind, exif=exif, **options)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    image = read_image(data)
    assert (image.pixels == np.asarray(shown)[..., :3]).all()
    if mode == "RGBA":
        assert image.alpha is not None
        assert (image.alpha == np.asarray(shown)[..., 3]).all()
    result = Image.open(io.BytesIO(image.encoded(image.pixels, quality=100)))
    assert result.size == shown.size
    assert dict(result.getexif()) == {DESCRIPTION: "a portrait", ORIENTATION: 1}
    if kind != "WEBP":
        assert result.info["dpi"] == pytest.approx((300, 72) if orientation < 5 else (72, 300), abs=0.1)
    again = read_image(image.encoded(image.pixels, quality=100))
    assert again.pixels.shape == image.pixels.shape


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_orientation_in_xmp_is_applied_once(kind: str) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
    data = encoded(an_image("RGB"), kind, **({"pnginfo": png_xmp(xmp)} if kind == "PNG" else {"xmp": xmp}))
    image = read_image(data)
    assert image.pixels.shape == (150, 140, 3)
    assert read_image(image.encoded(image.pixels)).pixels.shape == (150, 140, 3)
    assert image.kept["xmp"] == xmp.replace(b"6", b"1")


def png_xmp(xmp: bytes) -> PngImagePlugin.PngInfo:
    information = PngImagePlugin.PngInfo()
    information.add_itxt("XML:com.adobe.xmp", xmp.decode())
    return information


def test_a_large_colour_profile_of_a_png_file_is_kept() -> None:
    profile = np.random.default_rng(0).bytes(1_300_000)
    image = read_image(encoded(an_image("RGB"), "PNG", icc_profile=profile))
    assert read_image(image.encoded(image.pixels)).kept["icc_profile"] == image.kept["icc_profile"] == profile


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_pixels_are_written_unchanged(kind: str) -> None:
    image = read_image(encoded(an_image("RGB"), "PNG"))
    lossless = read_image(encoded(an_image("RGB"), kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert (lossless.pixels == image.pixels).all()
    changed = 255 - image.pixels
    assert (read_image(lossless.encoded(changed, quality=100)).pixels == changed).all()


def test_hidden_pixels_are_kept() -> None:
    image = read_image(encoded(an_image("RGBA"), "WEBP", lossless=True, exact=True))
    again = read_image(image.encoded(image.pixels, quality=100))
    assert (again.pixels == image.pixels).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_xmp_is_kept_and_so_is_resolution_if_the_format_has_one(kind: str) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">made by a model</x:xmpmeta>'
    if kind == "PNG":
        data = encoded(an_image("RGB"), kind, pnginfo=png_xmp(xmp), dpi=(300, 300))
    else:
        data = encoded(an_image("RGB"), kind, xmp=xmp, **({"dpi": (300, 300)} if kind == "JPEG" else {}))
    image = read_image(data)
    result = Image.open(io.BytesIO(image.encoded(image.pixels)))
    result.load()
    kept = result.info["xmp"]
    assert (kept.encode() if isinstance(kept, str) else kept).rstrip(b"\0") == xmp
    if kind != "WEBP":
        assert result.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_metadata_after_the_pixels_is_kept() -> None:
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>late</x:xmpmeta>"
    exif = Image.Exif()
    exif[DESCRIPTION] = "a portrait"
    data = encoded(an_image("RGB"), "PNG")
    end = data.index(b"IEND") - 4
    late = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + chunk(b"eXIf", exif.tobytes()[6:])
    image = read_image(data[:end] + late + data[end:])
    result = Image.open(io.BytesIO(image.encoded(image.pixels)))
    result.load()
    assert result.info["xmp"] == xmp
    assert dict(result.getexif()) == {DESCRIPTION: "a portrait"}


def test_colours_of_a_png_file_without_a_profile_are_kept() -> None:
    chromaticity = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
    information = PngImagePlugin.PngInfo()
    information.add(b"gAMA", struct.pack(">I", 45_455))
    information.add(b"cHRM", struct.pack(">8I", *(round(one * 100_000) for one in chromaticity)))
    information.add(b"sRGB", b"\0")
    image = read_image(encoded(an_image("RGB"), "PNG", pnginfo=information))
    result = Image.open(io.BytesIO(image.encoded(image.pixels)))
    assert result.info["gamma"] == 0.45455
    assert result.info["chromaticity"] == chromaticity
    assert result.info["srgb"] == 0


@pytest.mark.parametrize(
    "keyword", ["gamma", "chromaticity", "srgb", "xmp", "icc_profile", "exif", "dpi", "transparency", "Comment"]
)
@pytest.mark.parametrize("is_late", [False, True], ids=["before the pixels", "behind them"])
def test_text_of_a_png_file_is_not_mistaken_for_other_metadata(keyword: str, is_late: bool) -> None:
    data = encoded(an_image("RGB"), "PNG")
    place = data.index(b"IEND" if is_late else b"IDAT") - 4
    image = read_image(data[:place] + chunk(b"tEXt", keyword.encode() + b"\0002.2") + data[place:])
    assert (image.kept, image.alpha) == ({}, None)
    assert (read_image(image.encoded(image.pixels)).pixels == image.pixels).all()


@pytest.mark.parametrize("resolution", [-1e300, 0.0, 70_000.0, float("nan")])
def test_an_invalid_resolution_in_exif_is_dropped(resolution: float) -> None:
    x_resolution, double = 0x011A, 12
    entry = struct.pack("<HHII", x_resolution, double, 1, 26) + struct.pack("<I", 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<d", resolution)
    data = encoded(an_image("RGB"), "JPEG")
    assert data[2:4] == b"\xff\xe0"  # JFIF, whose resolution would take precedence
    (size,) = struct.unpack(">H", data[4:6])
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    image = read_image(data[:2] + segment + data[4 + size :])
    assert "dpi" not in image.kept or image.kept["dpi"] == (72, 72)
    image.encoded(image.pixels)


def test_an_invalid_resolution_is_dropped() -> None:
    data = encoded(an_image("RGB"), "PNG", dpi=(72, 72))
    start = data.index(b"pHYs")
    data = data[: start - 4] + chunk(b"pHYs", struct.pack(">IIB", 0xFFFFFFFF, 1, 1)) + data[start + 17 :]
    image = read_image(data)
    assert "dpi" not in Image.open(io.BytesIO(image.encoded(image.pixels))).info


@pytest.mark.parametrize("name", ["exif", "xmp"])
def test_metadata_that_does_not_fit_the_format_is_refused(name: str) -> None:
    pixels = photograph(150, 140)
    for most in (65_533, 65_504):
        ImageFile(pixels, None, "PNG", {name: b"x" * (most + 1)}).check_held()
    most = {"exif": 65_533, "xmp": 65_504}[name]
    held = ImageFile(pixels, None, "JPEG", {name: b"x" * most})
    held.check_held()
    held.encoded(pixels)
    with pytest.raises(InvalidArgument, match=f"65... bytes of {name.upper()}") as error:
        ImageFile(pixels, None, "JPEG", {name: b"x" * (most + 1)}).check_held()
    assert error.value.reason == "UNSUPPORTED_IMAGE"


def test_the_first_of_several_pictures_of_a_camera_is_read() -> None:
    first, second = an_image("RGB"), Image.new("RGB", (150, 140))
    image = read_image(encoded(first, "MPO", save_all=True, append_images=[second]))
    assert image.format == "JPEG"
    assert np.abs(image.pixels.astype(int) - np.asarray(first)).mean() < 10
    assert Image.open(io.BytesIO(image.encoded(image.pixels))).format == "JPEG"


def test_transparent_pixels_are_flattened_onto_grey() -> None:
    image = read_image(encoded(an_image("RGBA"), "PNG"))
    flat = image.flattened()
    assert (flat[:, 0] == 128).all()  # transparent
    expected = image.pixels[:, 100] * (100 / 255) + 128 * (155 / 255)
    assert np.abs(flat[:, 100] - expected).max() <= 0.5 + 1e-3
    opaque = read_image(encoded(an_image("RGB"), "PNG"))
    assert opaque.flattened() is opaque.pixels


def deep() -> Image.Image:
    return Image.fromarray(np.arange(40_000, dtype=np.uint16).reshape(200, 200))


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        (encoded(an_image("RGB").convert("CMYK"), "JPEG"), "UNSUPPORTED_IMAGE", "CMYK"),
        (encoded(deep(), "PNG"), "UNSUPPORTED_IMAGE", "16 bits"),
        (
            encoded(an_image("RGB"), "WEBP", save_all=True, append_images=[an_image("L").convert("RGB")]),
            "UNSUPPORTED_IMAGE",
            "animated",
        ),
        (encoded(Image.new("L", (MAX_SIDE + 1, 1)), "PNG"), "IMAGE_TOO_LARGE", "16384"),
        (encoded(Image.new("1", (30_000, 3_000)), "PNG"), "IMAGE_TOO_LARGE", "67108864"),
        (encoded(Image.new("1", (30_000, 30_000)), "PNG"), "IMAGE_TOO_LARGE", "67108864"),
        (encoded(an_image("RGB"), "PNG")[:5000], "DAMAGED_IMAGE", "cannot be decoded"),
        (encoded(an_image("RGB"), "GIF"), "UNSUPPORTED_IMAGE", "neither PNG"),
        (b"", "UNSUPPORTED_IMAGE", "neither PNG"),
        (b"\x89PNG\r\n\x1a\n", "DAMAGED_IMAGE", "cannot be decoded"),
    ],
    ids=[
        "cmyk",
        "16 bits",
        "animated",
        "too wide",
        "too many pixels",
        "bomb",
        "cut off",
        "gif",
        "empty",
        "header only",
    ],
)
def test_unsupported_files_are_refused_with_a_reason(data: bytes, reason: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        read_image(data)
    assert (caught.value.reason, caught.value.field) == (reason, "image")


@pytest.mark.parametrize("quality", [0, 101])
def test_an_invalid_quality_is_refused(quality: int) -> None:
    image = read_image(encoded(an_image("RGB"), "JPEG"))
    with pytest.raises(InvalidArgument, match="use 1 to 100") as caught:
        image.encoded(image.pixels, quality=quality)
    assert caught.value.field == "encoding_quality"
    with pytest.raises(InvalidArgument, match="whole number"):
        image.encoded(image.pixels, quality=quality + 0.5)  # type: ignore[arg-type]


def test_a_quality_may_be_a_numpy_number() -> None:
    image = read_image(encoded(an_image("RGB"), "JPEG"))
    assert image.encoded(image.pixels, quality=np.int64(90)) == image.encoded(image.pixels, quality=90)
