"""Metadata in sizes and places that Pillow refuses or misreads."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from common.errors import InvalidArgument
from deepseek.data import media, png
from tests.harness.images import image_file
from tests.harness.images import one_row_png as png_file

LARGE = bytes(2 * PngImagePlugin.MAX_TEXT_CHUNK)


def with_chunk(kind: bytes, body: bytes) -> bytes:
    return png_file(8, 0, 2, b"\x05\x06", (kind, body))


METADATA = {
    "zTXt": with_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(LARGE)),
    "iTXt": with_chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(LARGE)),
    "XMP": with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LARGE)),
    "profile": with_chunk(b"iCCP", b"profile\0\0" + zlib.compress(LARGE)),
    "tEXt": with_chunk(b"tEXt", b"workflow\0" + LARGE),
}


@pytest.mark.parametrize("name", METADATA)
def test_pixels_are_read_whatever_the_size_of_metadata(name: str) -> None:
    data = METADATA[name]
    media.check_image(data)
    assert np.asarray(media.decode_image(data, mode="L")).tolist() == [[5, 6]]


def test_a_file_without_metadata_is_returned_unchanged() -> None:
    for data in (image_file(), image_file(kind="JPEG"), b"", b"\x89PNG\r\n\x1a\n", image_file()[:50]):
        assert png.readable(data) is data


def test_small_xmp_and_profiles_are_kept() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "<x/>", zip=True)
    text.add_text("Comment", "hello")
    sink = io.BytesIO()
    Image.new("L", (2, 2)).save(sink, "PNG", pnginfo=text, icc_profile=b"profile")
    with Image.open(io.BytesIO(png.readable(sink.getvalue()))) as image:
        assert (image.info["xmp"], image.info["icc_profile"]) == (b"<x/>", b"profile")
        assert "Comment" not in image.info


def test_a_profile_of_any_size_is_returned() -> None:
    assert png.profile(METADATA["profile"]) == LARGE
    assert png.profile(with_chunk(b"iCCP", b"profile\0\0damaged")) is None
    assert png.profile(image_file()) is None
    assert png.profile(image_file(kind="JPEG")) is None


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_metadata_that_inflates_beyond_the_limit_is_refused(kind: bytes) -> None:
    half = zlib.compress(bytes(png.MAX_INFLATED // 2 + 1))
    media.check_image(with_chunk(kind, b"k\0\0" + half))
    data = png_file(8, 0, 2, b"\x05\x06", *[(kind, b"k\0\0" + half)] * 2)
    with pytest.raises(InvalidArgument, match="decompresses to more than") as caught:
        media.check_image(data, field="samples[k].image")
    assert (caught.value.reason, caught.value.field) == ("DAMAGED_IMAGE", "samples[k].image")


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"tRNS"])
def test_damaged_metadata_is_refused_even_if_it_is_dropped(kind: bytes) -> None:
    data = bytearray(png_file(4, 0, 2, b"\x0f", (kind, b"\0\5")))
    data[data.index(kind) + 5] ^= 1
    with pytest.raises(InvalidArgument, match="is damaged"):
        media.check_image(bytes(data))


@pytest.mark.parametrize("keyword", [b"transparency", b"exif", b"icc_profile", b"xmp"])
def test_text_is_not_mistaken_for_other_metadata(keyword: bytes) -> None:
    data = with_chunk(b"tEXt", keyword + b"\0II*\0")
    assert np.asarray(media.decode_image(data, mode="L")).tolist() == [[5, 6]]
