"""Repairs audio headers that were written before the length of the audio was known, and detects truncated files.

libsndfile trusts the header. It reads no frames from a WAV file that was written to a pipe, rejects a FLAC file that
was written to a pipe, and reads what is left of a truncated file without reporting an error. So this module compares
the header with the actual content before libsndfile opens the file. Audio is not decoded here.

Source: Multimedia Programming Interface and Data Specifications 1.0 (1991), RIFF and WAVE; RFC 9639 (FLAC),
sections 8.2 and 9; RFC 3533 (Ogg), section 6.
"""

import re
import struct
from collections.abc import Iterator
from functools import cache
from itertools import islice

_RIFF_ORDERS = {b"RIFF": "<", b"RIFX": ">"}
_WHOLE_FRAMES = {1, 3, 6, 7, 0xFFFE}
"""WAV codecs in which one block is one frame: PCM, float, A-law, mu-law, or any of them with the extensible header."""
_NEAR = 1 << 16
"""A size in a header that is within this distance of 2^31 or 2^32 is a placeholder for an unknown size."""
_MOST_CHUNKS = 1000

_FLAC_HEAD, _FLAC_TOTAL = slice(18, 26), (1 << 36) - 1
"""Bytes of a FLAC file that hold the sampling rate, the number of channels, the bit depth and, in the lowest 36 bits,
the number of samples (0 if unknown); and the mask of those 36 bits."""
_FLAC_MOST_SAMPLES = 10
"""Offset of the maximum number of samples per frame. If the block size is fixed, all frames but the last have this
many."""
_FLAC_SYNCS = (b"\xff\xf8", b"\xff\xf9")
_FLAC_SAMPLES = {1: 192, **{code: 144 << code for code in range(2, 6)}, **{code: 1 << code for code in range(8, 16)}}
_FLAC_SAMPLES_BYTES, _FLAC_RATE_BYTES = {6: 1, 7: 2}, {12: 1, 13: 2, 14: 2}
"""Codes of the number of samples and of the sampling rate for which the value itself follows the frame number in the
frame header. Each code is mapped to the length of that value in bytes."""
_MOST_FLAC_FRAME_BYTES, _MOST_FLAC_SYNCS, _MOST_FLAC_HEADERS = 1 << 18, 64, 4
"""Limits of the search for the last frame, in bytes, in sync codes and in headers. They are needed because a hostile
file may contain many false sync codes and headers."""

_OGG_HEAD_BYTES = 27
_OGG_FIRST_PAGE, _OGG_LATER_PAGE = re.compile(rb"OggS\0[\2\3\6\7]"), re.compile(rb"OggS\0[\0\1\4\5]")
"""Patterns of the first bytes of an Ogg page. The first one matches the first page of a stream, the other any
later page."""


def with_actual_length(data: bytes) -> bytes:
    """Returns an audio file with a header that states the actual length of the audio.

    Args:
        data: Content of any file. If the file is not audio, or is damaged in a way that is not handled here, it is
            returned unchanged, so that libsndfile reports the problem.

    Raises:
        ValueError: The file is truncated or contains several recordings.
    """
    if data[:4] in _RIFF_ORDERS and data[8:12] == b"WAVE":
        return _with_actual_wav_length(data)
    if data[:4] == b"fLaC":
        return _with_actual_flac_length(data)
    if data[:4] == b"OggS":
        _check_ogg(data)
    return data


def _with_actual_wav_length(data: bytes) -> bytes:
    """Returns a WAV file with correct sizes, reduced to the audio data and the chunks required to decode that data."""
    order = _RIFF_ORDERS[data[:4]]
    (riff_size,) = struct.unpack_from(order + "I", data, 4)
    kept = {}
    for kind, start, size in islice(_riff_chunks(data, order), _MOST_CHUNKS):
        if kind == b"data":
            break
        if kind in (b"fmt ", b"fact"):
            kept[kind] = data[start : start + size]
    else:
        return data
    if len(kept.get(b"fmt ", b"")) < 16:
        return data
    there = len(data) - start
    is_open = _is_open(size) or (size == 0 and (riff_size + 8 <= start or _is_open(riff_size)))
    if is_open:
        size = there
        kept.pop(b"fact", None)
    elif size > there:
        codec, block = struct.unpack_from(order + "H10xH", kept[b"fmt "])
        needed = size - size % block if codec in _WHOLE_FRAMES and block else size
        # If the length of the file matches the RIFF header, nothing is missing: only the data chunk's size is wrong.
        if needed > there and riff_size + 8 != len(data):
            raise ValueError(f"the file is truncated: {needed - there} of {needed} bytes of audio are missing")
    chunks = [*kept.items(), (b"data", data[start : start + size])]
    body = b"WAVE" + b"".join(
        kind + struct.pack(order + "I", len(content)) + content + bytes(len(content) % 2) for kind, content in chunks
    )
    return data[:4] + struct.pack(order + "I", len(body)) + body


def _riff_chunks(data: bytes, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yields each chunk's kind, the offset of its content, and the size that its header states.

    A chunk of odd size should be followed by a padding byte, but before the data chunk, this byte may be missing.
    """
    at = 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(order + "4sI", data, at)
        yield kind, at + 8, size
        at += 8 + size
        if size % 2 and data[at : at + 4] != b"data":
            at += 1


def _is_open(size: int) -> bool:
    """Returns whether a size in a header is a placeholder for an unknown size, i.e. is close to 2^31 or 2^32.

    An exact comparison would not suffice: some programs subtract the size of the header from the placeholder.
    """
    return size >= (1 << 31) - _NEAR and (size + _NEAR) % (1 << 31) < 2 * _NEAR


def _with_actual_flac_length(data: bytes) -> bytes:
    """Returns a FLAC file whose header states the number of samples, which is computed from the last frame's header."""
    head = int.from_bytes(data[_FLAC_HEAD])
    if head & _FLAC_TOTAL:
        return data
    for start, total in islice(_flac_ends(data), _MOST_FLAC_HEADERS):
        if _crc(data[start:], 16, 0x8005) == 0:
            return data[: _FLAC_HEAD.start] + (head | total & _FLAC_TOTAL).to_bytes(8) + data[_FLAC_HEAD.stop :]
    raise ValueError("the file is truncated: it does not end with a complete frame")


def _flac_ends(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields the offset of each possible frame, and the number of samples up to the end of that frame.

    Bytes that look like a frame header count as a possible frame. The search runs backwards from the end of the file.
    """
    earliest = max(_FLAC_HEAD.stop, len(data) - _MOST_FLAC_FRAME_BYTES)
    start = len(data)
    for _ in range(_MOST_FLAC_SYNCS):
        start = max(data.rfind(sync, earliest, start) for sync in _FLAC_SYNCS)
        if start < 0:
            return
        header = data[start : start + 16].ljust(16, b"\0")
        num_ones = 8 - (header[4] ^ 0xFF).bit_length()
        if num_ones in (1, 8):
            continue
        number = header[4] & 0x7F >> num_ones
        at = 4 + max(1, num_ones)
        for byte in header[5:at]:
            number = number << 6 | byte & 0x3F
        code, rate = header[2] >> 4, header[2] & 15
        num_samples = _FLAC_SAMPLES.get(code, 0)
        if width := _FLAC_SAMPLES_BYTES.get(code):
            num_samples = int.from_bytes(header[at : at + width]) + 1
            at += width
        at += _FLAC_RATE_BYTES.get(rate, 0)
        if num_samples and _crc(header[: at + 1], 8, 0x07) == 0:
            is_variable = header[1] & 1
            (block,) = struct.unpack_from(">H", data, _FLAC_MOST_SAMPLES)
            yield start, number * (1 if is_variable else block) + num_samples


def _crc(data: bytes, width: int, polynomial: int) -> int:
    """Returns the CRC of the data, most significant bit first. It is 0 if the data ends with its own checksum."""
    table, mask, value = _crc_table(width, polynomial), (1 << width) - 1, 0
    for byte in data:
        value = (value << 8 & mask) ^ table[value >> width - 8 ^ byte]
    return value


@cache
def _crc_table(width: int, polynomial: int) -> list[int]:
    table = []
    for value in range(256):
        value <<= width - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> width - 1 else 0)
            value &= (1 << width) - 1
        table.append(value)
    return table


def _check_ogg(data: bytes) -> None:
    """Rejects an Ogg file that ends in the middle of a page, or that contains several recordings.

    Of several recordings, libsndfile would read only one.
    """
    last = data.rfind(b"OggS")
    head = data[last : last + _OGG_HEAD_BYTES]
    num_segments = head[-1] if len(head) == _OGG_HEAD_BYTES else 0
    start = last + _OGG_HEAD_BYTES
    end = start + num_segments + sum(data[start : start + num_segments])
    rest = data[end:]
    if end > len(data) or (rest and b"OggS".startswith(rest)):
        raise ValueError("the file is truncated: its last Ogg page is incomplete")
    later = _OGG_LATER_PAGE.search(data)
    if later and _OGG_FIRST_PAGE.search(data, later.end()):
        raise ValueError("the file contains several recordings; split it into one file per recording")
