"""Audio files as recorders, pipes and careless programs write them, and truncated files."""

import io
import struct
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from common.errors import InvalidArgument
from deepseek.data import media

WAV_SUBTYPES = ("PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32")
UNKNOWN_SIZES = (0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFFFF, 0x7FFFF000, 0x80000000)


def noise(num_frames: int = 20_000) -> npt.NDArray[np.float32]:
    """Noise, which no codec compresses well."""
    return np.random.default_rng(0).uniform(-0.5, 0.5, num_frames).astype(np.float32)


def encoded(kind: str, subtype: str | None = None, *, num_frames: int = 20_000, endian: str = "FILE") -> bytes:
    sink = io.BytesIO()
    soundfile.write(sink, noise(num_frames), 8000, format=kind, subtype=subtype, endian=endian)
    return sink.getvalue()


def read(data: bytes) -> npt.NDArray[np.float32]:
    media.check_audio(data)
    return media.decode_audio(data)[0]


def is_refused(data: bytes, message: str) -> None:
    for attempt in (media.check_audio, media.decode_audio):
        with pytest.raises(InvalidArgument, match=message) as caught:
            attempt(data, field="samples[k].sound")
        assert (caught.value.reason, caught.value.field) == ("DAMAGED_AUDIO", "samples[k].sound")


def with_sizes(data: bytes, riff: int | None, sound: int | None) -> bytes:
    """A WAV file whose header states another length."""
    order, at = "<" if data[:4] == b"RIFF" else ">", data.index(b"data") + 4
    changed = bytearray(data)
    for place, size in ((4, riff), (at, sound)):
        if size is not None:
            changed[place : place + 4] = struct.pack(order + "I", size)
    return bytes(changed)


@pytest.mark.parametrize("subtype", WAV_SUBTYPES)
@pytest.mark.parametrize("size", UNKNOWN_SIZES)
def test_a_wav_file_from_a_pipe_is_read_to_its_end(subtype: str, size: int) -> None:
    data = encoded("WAV", subtype, num_frames=16_000)
    assert np.array_equal(read(with_sizes(data, (size + 36) % (1 << 32), size)), read(data))
    assert np.array_equal(read(with_sizes(data, None, size)), read(data))


@pytest.mark.parametrize(("kind", "endian"), [("WAV", "LITTLE"), ("WAV", "BIG"), ("WAVEX", "LITTLE")])
def test_an_unfinished_header_does_not_mean_an_empty_recording(kind: str, endian: str) -> None:
    data = encoded(kind, "PCM_16", endian=endian)
    start = data.index(b"data") + 8
    for riff in (0, 8, 36, start - 8, 0xFFFFFFFF):
        assert np.array_equal(read(with_sizes(data, riff, 0)), read(data))


def test_an_empty_recording_followed_by_notes_is_empty() -> None:
    body = encoded("WAV", "PCM_16", num_frames=0)[8:] + b"LIST\x04\0\0\0INFO"
    is_refused(b"RIFF" + struct.pack("<I", len(body)) + body, "contains no audio")


@pytest.mark.parametrize("riff", ["own 8 bytes", "nonsense", "too small"])
def test_the_size_of_the_whole_file_does_not_matter(riff: str) -> None:
    data = encoded("WAV", "PCM_16")
    size = {"own 8 bytes": len(data), "nonsense": 0x61F92214, "too small": 100}[riff]
    assert len(read(with_sizes(data, size, None))) == 20_000


@pytest.mark.parametrize("too_much", [1, 8, 36, 44])
def test_a_size_of_the_sound_that_counts_a_header_does_not_matter(too_much: int) -> None:
    data = encoded("WAV", "PCM_16")
    (size,) = struct.unpack_from("<I", data, 40)
    assert len(read(with_sizes(data, None, size + too_much))) == 20_000


@pytest.mark.parametrize("pad", [b"", b"\0", b"x"])
@pytest.mark.parametrize("kind", [b"LIST", b"bext", b"\0\0\0\0"])
def test_a_chunk_of_odd_length_before_the_sound_may_be_padded_or_not(pad: bytes, kind: bytes) -> None:
    data = encoded("WAV", "PCM_16")
    body = data[8:36] + kind + struct.pack("<I", 15) + bytes(15) + pad + data[36:]
    assert len(read(b"RIFF" + struct.pack("<I", len(body)) + body)) == 20_000


def test_the_pad_byte_of_the_sound_may_be_missing() -> None:
    data = encoded("WAV", "PCM_24", num_frames=801)
    assert data[-1:] == b"\0"
    assert len(read(data[:-1])) == 801
    is_refused(data[:-2], "truncated: 1 of 2403 bytes")


@pytest.mark.parametrize("subtype", WAV_SUBTYPES)
@pytest.mark.parametrize("num_missing", [2, 3, 600, 3000])
def test_a_truncated_wav_file_is_refused(subtype: str, num_missing: int) -> None:
    is_refused(encoded("WAV", subtype)[:-num_missing], "truncated")


def streamed_flac(subtype: str = "PCM_16", num_frames: int = 20_000) -> bytes:
    """A FLAC file as written to a pipe: its header was never completed."""
    data = bytearray(encoded("FLAC", subtype, num_frames=num_frames))
    data[12:18] = bytes(6)  # sizes of frames
    data[21] &= 0xF0
    data[22:42] = bytes(20)  # number of samples and their MD5
    return bytes(data)


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("num_frames", [1, 15, 192, 4096, 4097, 20_000, 600_000])
def test_a_flac_file_from_a_pipe_is_read_to_its_end(subtype: str, num_frames: int) -> None:
    expected = read(encoded("FLAC", subtype, num_frames=num_frames))
    assert np.array_equal(read(streamed_flac(subtype, num_frames)), expected)


@pytest.mark.parametrize("make", [streamed_flac, lambda: encoded("FLAC")], ids=["streamed", "with its length"])
@pytest.mark.parametrize("num_missing", [1, 2, 100, 5000, 30_000])
def test_a_truncated_flac_file_is_refused(make: Callable[[], bytes], num_missing: int) -> None:
    is_refused(make()[:-num_missing], "cannot be decoded")


def test_many_false_ends_of_a_flac_file_are_refused_quickly() -> None:
    header = streamed_flac()[:42]
    for frames in (b"\xff\xf8" * 500_000, b"\xff\xf8\xc9\x08\0\x5f" * 200_000):
        is_refused(header + frames, "complete frame")


def ogg_pages(data: bytes) -> list[bytes]:
    pages, start = [], 0
    while start < len(data):
        num_segments = data[start + 26]
        end = start + 27 + num_segments + sum(data[start + 27 : start + 27 + num_segments])
        pages.append(data[start:end])
        start = end
    return pages


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_truncated_ogg_file_is_refused(subtype: str) -> None:
    data = encoded("OGG", subtype, num_frames=100_000)
    pages = ogg_pages(data)
    assert len(read(data)) == 100_000
    assert len(pages) > 4
    for num_missing in (1, 3, len(pages[-1]) - 1, len(pages[-1]) - 30, len(pages[-1]) + 50):
        is_refused(data[:-num_missing], "last Ogg page is incomplete")


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_stream_may_lack_an_end_marker(subtype: str) -> None:
    pages = ogg_pages(encoded("OGG", subtype, num_frames=100_000))
    assert 50_000 < len(read(b"".join(pages[:-1]))) < 100_000


def test_several_consecutive_ogg_streams_are_refused() -> None:
    data = encoded("OGG")
    is_refused(data + data, "several recordings")
