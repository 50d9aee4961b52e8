import io
import random
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from common.errors import InvalidArgument
from deepseek.data import media
from tests.deepseek.data.samples import sound_file
from tests.harness.images import image_file


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header announces a huge image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image_is_decoded(kind: str) -> None:
    image = media.decode_image(image_file(kind=kind))
    assert (image.size, image.mode) == ((16, 12), "RGB")
    media.check_image(image_file(kind=kind))


def test_a_png_is_decoded_exactly() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    assert np.array_equal(np.array(media.decode_image(sink.getvalue())), pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("length", [0, 1, 20, -60, -20])
def test_a_truncated_image_is_refused(kind: str, length: int) -> None:
    data = image_file(kind=kind)[:length]
    with pytest.raises(InvalidArgument) as caught:
        media.check_image(data, field="samples[k].image", name="k.png")
    assert caught.value.reason == "DAMAGED_IMAGE"
    assert caught.value.field == "samples[k].image"
    assert "k.png" in caught.value.message


def test_a_png_with_one_wrong_byte_of_pixels_is_refused() -> None:
    data = bytearray(image_file(size=(64, 64)))
    data[len(data) // 2] ^= 1
    with pytest.raises(InvalidArgument):
        media.check_image(bytes(data))


@pytest.mark.parametrize("size", [(8193, 8192), (10_000, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        media.check_image(huge_png(*size))
    assert caught.value.reason == "DAMAGED_IMAGE"


def test_other_formats_are_refused() -> None:
    sink = io.BytesIO()
    Image.new("RGB", (4, 4)).save(sink, "GIF")
    with pytest.raises(InvalidArgument):
        media.check_image(sink.getvalue())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damage_anywhere_gives_an_image_or_one_kind_of_error(kind: str) -> None:
    whole = image_file(kind=kind, size=(40, 30))
    choose = random.Random(kind)
    num_refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(choose.randint(1, 4)):
            data[choose.randrange(len(data))] = choose.randrange(256)
        try:
            media.check_image(bytes(data))
        except InvalidArgument as error:
            assert error.reason == "DAMAGED_IMAGE"  # noqa: PT017 - either outcome is right
            num_refused += 1
    assert num_refused > 10


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_audio_is_decoded(kind: str) -> None:
    samples, rate = media.decode_audio(sound_file(kind=kind))
    assert samples.shape == (400, 1)
    assert samples.dtype == np.float32
    assert rate == 8000


@pytest.mark.parametrize("data", [b"", b"RIFF", sound_file()[:30], sound_file(kind="FLAC")[:200], image_file()])
@pytest.mark.parametrize("decode", [media.decode_audio, media.check_audio])
def test_damaged_audio_is_refused(data: bytes, decode: Callable[..., object]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode(data, field="samples[k].audio")
    assert caught.value.reason == "DAMAGED_AUDIO"
    assert caught.value.field == "samples[k].audio"


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
@pytest.mark.parametrize("num_missing", [1, 2, 100, 300])
def test_truncated_audio_is_refused(kind: str, num_missing: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        media.check_audio(sound_file(kind=kind)[:-num_missing])
    assert caught.value.reason == "DAMAGED_AUDIO"


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_streamed_wav_file_of_unknown_size_is_decoded(size: int) -> None:
    data = bytearray(sound_file())
    data[4:8] = struct.pack("<I", size)
    assert media.decode_audio(bytes(data))[0].shape == (400, 1)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_audio_without_frames_is_refused(kind: str) -> None:
    with pytest.raises(InvalidArgument):
        media.decode_audio(sound_file(0, kind=kind))


def float_file(values: np.ndarray[Any, Any], subtype: str = "FLOAT", kind: str = "WAV") -> bytes:
    sink = io.BytesIO()
    soundfile.write(sink, values, 8000, format=kind, subtype=subtype)
    return sink.getvalue()


@pytest.mark.parametrize("decode", [media.decode_audio, media.check_audio])
@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("WAVEX", "FLOAT")])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 32_767, -127, 1e300])
def test_values_that_are_not_audio_are_refused(
    decode: Callable[..., object], kind: str, subtype: str, value: float
) -> None:
    values = np.zeros((50_000, 2))
    values[40_007, 1] = value
    data = float_file(values, subtype, kind)
    with pytest.raises(InvalidArgument, match=r"k\.wav has the value .* in frame 40007;") as caught:
        decode(data, field="samples[k].sound", name="k.wav")
    assert (caught.value.reason, caught.value.field) == ("DAMAGED_AUDIO", "samples[k].sound")


def test_peaks_are_clipped() -> None:
    data = float_file(np.array([0.5, 1.5, -40.0, 1.0]))
    media.check_audio(data)
    assert media.decode_audio(data)[0][:, 0].tolist() == [0.5, 1.0, -1.0, 1.0]


def test_vorbis_overshoots_and_is_clipped() -> None:
    data = float_file(np.sign(np.sin(np.arange(8000) / 20)), "VORBIS", "OGG")
    assert soundfile.read(io.BytesIO(data))[0].max() > 1
    assert np.abs(media.decode_audio(data)[0]).max() == 1


@pytest.mark.parametrize("subtype", ["GSM610", "G721_32", "NMS_ADPCM_16"])
def test_codecs_that_cannot_seek_are_decoded(subtype: str) -> None:
    data = float_file(np.sin(np.arange(8000) / 20) / 2, subtype)
    media.check_audio(data)
    assert media.decode_audio(data)[0].shape[0] >= 8000


def test_a_decoder_error_reveals_no_address() -> None:
    with pytest.raises(InvalidArgument) as caught:
        media.decode_audio(b"RIFFnothing")
    assert "object at" not in caught.value.message


def test_audio_in_another_format_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="AIFF"):
        media.decode_audio(sound_file(kind="AIFF"))


def test_a_small_file_of_a_long_recording_is_checked_without_holding_it_all() -> None:
    num_frames = 4 * media.LARGE_VALUES
    data = silent_file(num_frames)
    assert len(data) < num_frames // 100
    tracemalloc.start()
    try:
        media.check_audio(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < num_frames // 4


@pytest.mark.parametrize("decode", [media.decode_audio, media.check_audio])
def test_a_recording_that_is_too_long_is_refused_before_it_is_decoded(decode: Callable[..., object]) -> None:
    with pytest.raises(InvalidArgument, match="too long"):
        decode(silent_file(media.MAX_AUDIO_VALUES + 1))


def test_few_large_files_are_decoded_at_a_time_and_small_ones_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = threading.BoundedSemaphore(1)
    monkeypatch.setattr(media, "_large", turns)
    data = silent_file(media.LARGE_VALUES + 1)
    with ThreadPoolExecutor(1) as pool:
        with turns:
            decoding = pool.submit(media.decode_audio, data)
            media.decode_audio(sound_file())
            with pytest.raises(TimeoutError):
                decoding.result(timeout=0.3)
        assert len(decoding.result(timeout=30)[0]) == media.LARGE_VALUES + 1


def silent_file(num_frames: int) -> bytes:
    """A FLAC of silence, which takes almost no space."""
    sink = io.BytesIO()
    soundfile.write(sink, np.zeros(num_frames, np.int16), 8000, format="FLAC")
    return sink.getvalue()
