"""Small files that would become a lot of memory are refused before they do, and so is what is no image or sound."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from PIL import Image

from common.errors import InvalidArgument
from deepseek.data import media
from tests.deepseek.data.samples import sound_file
from tests.harness.images import image_file

MAX_GROWTH_KIB = 64 * 1024
MIB = 1 << 20


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def zeros(num_mib: int) -> bytes:
    """So many MiB of zeros, compressed without ever holding them."""
    deflate = zlib.compressobj()
    return b"".join([*(deflate.compress(bytes(MIB)) for _ in range(num_mib)), deflate.flush()])


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def png_of_many_rows() -> bytes:
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zeros(300)) + chunk(b"IEND", b"")


def png_with(kind: bytes) -> Callable[[], bytes]:
    """A small picture with a note that is large once it is inflated."""
    end_of_header = 33

    def make() -> bytes:
        whole = image_file()
        return whole[:end_of_header] + chunk(kind, b"k\0\0" + zeros(300)) + whole[end_of_header:]

    return make


def jpeg() -> bytes:
    whole = image_file(kind="JPEG")
    return patched(whole, whole.index(b"\xff\xc0") + 5, struct.pack(">HH", 65_500, 65_500))


def webp() -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (16, 12)).save(sink, "WEBP", lossless=True)
    whole = sink.getvalue()
    return patched(whole, whole.index(b"VP8L") + 9, struct.pack("<I", 16_383 | 16_383 << 14))


def animated_webp() -> bytes:
    sink = io.BytesIO()
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "blue")]
    frames[0].save(sink, "WEBP", save_all=True, append_images=frames[1:])
    whole = sink.getvalue()
    return patched(whole, whole.index(b"VP8X") + 12, (16_383).to_bytes(3, "little") * 2)


def flac() -> bytes:
    """A recording that says it has 2^36 - 1 frames."""
    whole = sound_file(kind="FLAC")
    num_frames_at = 4 + 4 + 13
    return patched(whole, num_frames_at, bytes([whole[num_frames_at] | 0x0F]) + b"\xff" * 4)


def ogg() -> bytes:
    whole = sound_file(kind="OGG")
    return patched(whole, whole.rindex(b"OggS") + 6, struct.pack("<q", 1 << 40))


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak_kib() -> int:
    """The most memory that this process held since `reset_peak`."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


BOMBS: dict[str, tuple[Callable[[], bytes], Callable[[bytes], object]]] = {
    "png of many rows": (png_of_many_rows, media.check_image),
    "png with text": (png_with(b"zTXt"), media.check_image),
    "png with a profile": (png_with(b"iCCP"), media.check_image),
    "jpeg": (jpeg, media.check_image),
    "webp": (webp, media.check_image),
    "animated webp": (animated_webp, media.check_image),
    "flac": (flac, media.decode_audio),
    "ogg": (ogg, media.decode_audio),
}


def refuse(name: str) -> tuple[str, int]:
    """Has a bomb refused; the reason, and by how many KiB the memory of the process grew meanwhile."""
    make, read = BOMBS[name]
    data = make()
    reset_peak()
    before = peak_kib()
    with pytest.raises(InvalidArgument) as caught:
        read(data)
    return caught.value.reason, peak_kib() - before


@pytest.fixture(scope="module")
def own_process() -> Iterator[Executor]:
    """A process whose memory no other thread changes."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        yield process


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_is_decoded(name: str, own_process: Executor) -> None:
    reason, growth_kib = own_process.submit(refuse, name).result()
    assert reason in ("DAMAGED_IMAGE", "DAMAGED_AUDIO")
    assert growth_kib < MAX_GROWTH_KIB


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("image.png", image_file())
    return sink.getvalue()


def tarred() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        info = tarfile.TarInfo("image.png")
        info.size = len(image_file())
        archive.addfile(info, io.BytesIO(image_file()))
    return sink.getvalue()


@pytest.mark.parametrize("make", [zipped, tarred, lambda: gzip.compress(image_file())], ids=["zip", "tar", "gzip"])
@pytest.mark.parametrize("read", [media.check_image, media.check_audio])
def test_an_archive_is_no_image_and_no_sound(make: Callable[[], bytes], read: Callable[[bytes], object]) -> None:
    with pytest.raises(InvalidArgument):
        read(make())
