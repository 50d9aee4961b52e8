"""Realistic EXIF blocks, built byte by byte or by Pillow."""

import io
import struct

import pytest
from PIL import Image

from deepseek.data import exif

ORIENTATION, MAKER_NOTE, SUBDIRECTORY, WIDTH, HEIGHT = 0x0112, 0x927C, 0x8769, 0xA002, 0xA003
SHORT, LONG, UNDEFINED = 3, 4, 7


def field(order: str, tag: int, kind: int, value: bytes) -> bytes:
    return struct.pack(order + "HHI", tag, kind, 1) + value.ljust(4, b"\0")


def block(order: str, orientation: int, kind: int = SHORT) -> bytes:
    """EXIF with an orientation, width and height, a maker note and a thumbnail."""
    code = "H" if kind == SHORT else "I"
    start, offset = b"II*\0" if order == "<" else b"MM\0*", 8
    main_bytes, sub_bytes = 2 + 2 * 12 + 4, 2 + 3 * 12 + 4
    sub, second = offset + main_bytes, offset + main_bytes + sub_bytes
    main = (
        struct.pack(order + "H", 2)
        + field(order, ORIENTATION, kind, struct.pack(order + code, orientation))
        + field(order, SUBDIRECTORY, LONG, struct.pack(order + "I", sub))
        + struct.pack(order + "I", second)
    )
    details = (
        struct.pack(order + "H", 3)
        + field(order, MAKER_NOTE, UNDEFINED, b"note")
        + field(order, WIDTH, SHORT, struct.pack(order + "H", 40))
        + field(order, HEIGHT, LONG, struct.pack(order + "I", 20))
        + bytes(4)
    )
    thumbnail = struct.pack(order + "H", 1) + field(order, ORIENTATION, SHORT, struct.pack(order + "H", 1)) + bytes(4)
    return b"Exif\0\0" + start + struct.pack(order + "I", offset) + main + details + thumbnail


def pillow(data: bytes) -> Image.Exif:
    read = Image.Exif()
    read.load(data)
    return read


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [SHORT, LONG])
@pytest.mark.parametrize("value", range(1, 9))
def test_an_orientation_is_read_as_pillow_reads_it(order: str, kind: int, value: int) -> None:
    data = block(order, value, kind)
    assert exif.orientation({"exif": data}) == pillow(data)[ORIENTATION] == value


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_undefined_orientation_is_ignored(value: int) -> None:
    assert exif.orientation({"exif": block("<", value)}) == 1


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II*",
        b"Exif\0\0\0\x08\0\x02\x01\x12\0\x03",  # from a PNG file whose program omitted the header
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0",
        block("<", 6)[:20],
        block("<", 6, UNDEFINED),
        b"no EXIF at all",
    ],
)
def test_damaged_exif_is_ignored_and_kept(damaged: bytes) -> None:
    assert exif.orientation({"exif": damaged}) == 1
    assert len(exif.upright_exif(damaged, 6)) == len(damaged)


def test_the_complete_fields_of_a_truncated_block_are_read() -> None:
    data = block("<", 6)[: 6 + 8 + 2 + 12]
    assert exif.orientation({"exif": data}) == 6
    assert exif.orientation({"exif": exif.upright_exif(data, 6)}) == 1


def test_a_prefix_may_come_twice_or_not_at_all() -> None:
    data = block("<", 6)
    assert exif.orientation({"exif": b"Exif\0\0" + data}) == exif.orientation({"exif": data[6:]}) == 6


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("value", "size"), [(3, (40, 20)), (6, (20, 40))])
def test_a_block_of_upright_pixels_says_so_and_keeps_the_rest(order: str, value: int, size: tuple[int, int]) -> None:
    data = block(order, value)
    result = exif.upright_exif(data, value)
    assert len(result) == len(data)
    read = pillow(result)
    assert read[ORIENTATION] == 1
    details = read.get_ifd(SUBDIRECTORY)
    assert (details[WIDTH], details[HEIGHT]) == size
    assert details[MAKER_NOTE] == b"note"[:1]
    assert not read.get_ifd(0x1)  # the thumbnail is still rotated


def test_xmp_is_used_if_exif_has_no_orientation() -> None:
    for xmp in (b'<rdf:Description tiff:Orientation="8"/>', b"<tiff:Orientation>8</tiff:Orientation>"):
        assert exif.orientation({"xmp": xmp}) == 8
        assert exif.orientation({"xmp": xmp, "exif": block("<", 3)}) == 3
        assert exif.orientation({"xmp": xmp, "exif": block("<", 1)}) == 1
        assert exif.orientation({"xmp": exif.upright_xmp(xmp)}) == 1
        assert len(exif.upright_xmp(xmp)) == len(xmp)


def test_exif_in_the_text_of_a_png_file_is_read() -> None:
    digits = block("<", 6).hex()
    assert exif.orientation({exif.RAW_PROFILE: f"\nexif\n      80\n{digits[:72]}\n{digits[72:]}\n"}) == 6
    assert exif.orientation({exif.RAW_PROFILE: "\nexif\n      80\nno digits"}) == 1


def test_exif_written_by_pillow_is_read() -> None:
    written = Image.Exif()
    written[ORIENTATION] = 7
    file = io.BytesIO()
    Image.new("L", (2, 2)).save(file, "JPEG", exif=written)
    with Image.open(file) as image:
        assert exif.orientation(image.info) == 7
