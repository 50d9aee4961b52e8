"""The quick check of small JPEG files never accepts what a full decoding refuses."""

import io
import random
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from common.errors import InvalidArgument
from deepseek.data import jpeg, media
from tests.harness.images import image_file

FORMS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "full colour": {"subsampling": 0},
    "half colour": {"subsampling": 1, "progressive": True},
    "restarts": {"restart_marker_blocks": 2},
}
NUM_CHANGES = 40


def jpeg_file(mode: str = "RGB", size: tuple[int, int] = (45, 37), **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.open(io.BytesIO(image_file(7, size))).convert(mode).save(sink, "JPEG", quality=80, **options)
    return sink.getvalue()


def damaged(data: bytes) -> Iterator[bytes]:
    """Yields truncated files, and files with changed bytes, most often in the header with its Huffman tables."""
    chance = random.Random(0)
    yield from (data[: len(data) * share // 100] for share in range(0, 100, 5))
    yield from (data[:-cut] for cut in range(1, 6))
    for end in (len(data), 640):
        for _ in range(NUM_CHANGES):
            at = chance.randrange(min(end, len(data)))
            yield data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
            yield data[:at] + chance.randbytes(1) + data[at + 1 :]
            yield data[:at] + data[at + chance.randrange(1, 30) :]


def verdict(data: bytes) -> tuple[str, str]:
    """Returns the result of a full decoding."""
    try:
        with media.open_image(data, field="image") as image:
            image.load()
    except InvalidArgument as error:
        return error.reason, error.message
    return "", ""


def quick_verdict(data: bytes) -> tuple[str, str]:
    try:
        media.check_image(data, field="image")
    except InvalidArgument as error:
        return error.reason, error.message
    return "", ""


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("form", FORMS)
def test_damage_is_found_as_by_a_full_decoding(form: str, mode: str) -> None:
    data = jpeg_file(mode, **FORMS[form])
    assert jpeg.is_complete(data)
    found = [(quick_verdict(one), verdict(one)) for one in damaged(data)]
    assert all(quick == full for quick, full in found)
    assert 0.1 < sum(not reason for _, (reason, _) in found) / len(found) < 0.9


@pytest.mark.parametrize(
    "data",
    [
        jpeg_file("CMYK"),
        jpeg_file(exif=Image.Exif().tobytes() + b"junk"),
        jpeg_file(size=(700, 700), subsampling=0),
        image_file(kind="PNG"),
        b"",
    ],
    ids=["four channels", "metadata", "large", "png", "empty"],
)
def test_unusual_files_are_left_to_pillow(data: bytes) -> None:
    assert not jpeg.is_complete(data)


def test_the_decoder_does_not_write_beyond_a_wrong_size() -> None:
    data = bytearray(jpeg_file())
    at = data.index(b"\xff\xc0")
    for height, width in ((1, 1), (1024, 1024), (37, 1), (1, 45)):
        data[at + 5 : at + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        assert quick_verdict(bytes(data)) == verdict(bytes(data))
