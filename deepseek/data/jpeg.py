"""Checks small JPEG files quickly.

Pillow spends about as much time on the header of a small file as on decoding the file. This module accepts only plain
headers, and lets libjpeg decode the whole file at an eighth of its size. This finds the same damage, because libjpeg
reads all coefficients at any size.

Source: ITU-T T.81, annex B; Pillow 13.0.0, `JpegImagePlugin.py`.
"""

import struct

from PIL import Image

MAX_BYTES = 64 * 1024
"""Maximum size of a file. Pillow passes larger files to libjpeg in parts."""
MAX_PIXELS = 1024 * 1024

_START, _SCALE = b"\xff\xd8", 8
_JFIF, _FRAMES, _SCAN = 0xE0, (0xC0, 0xC2), 0xDA
_TABLES = (0xDB, 0xC4, 0xDD)
_JFIF_BYTES, _PRECISION = 16, 8
_CHANNELS = {1: "L", 3: "RGB"}
_FULL_SIZE = 0x11
_SAMPLINGS = (_FULL_SIZE, 0x21, 0x12, 0x22)


def is_complete(data: bytes) -> bool:
    """Returns True if this is certainly a complete JPEG file, and False if it may or may not be complete."""
    found = _plain_header(data)
    if not found:
        return False
    mode, width, height = found
    size = -(-width // _SCALE), -(-height // _SCALE)
    try:
        Image.frombytes(mode, size, data, "jpeg", mode, "", _SCALE, 0)
    except (ValueError, OSError, MemoryError):
        return False
    return True


def _plain_header(data: bytes) -> tuple[str, int, int] | None:
    """Returns the mode, width and height of a small baseline or progressive file.

    Returns None if the header is damaged or contains anything that Pillow or libjpeg might refuse, such as metadata.
    """
    if len(data) > MAX_BYTES or not data.startswith(_START):
        return None
    found, start = None, len(_START)
    while start + 4 <= len(data):
        prefix, marker, size = struct.unpack_from(">BBH", data, start)
        if prefix != 0xFF:
            return None
        if marker == _SCAN:
            return found
        if marker in _FRAMES:
            found = _frame(data[start + 4 : start + 2 + size])
        elif marker not in _TABLES and (marker != _JFIF or size < _JFIF_BYTES):
            return None
        start += 2 + size
    return None


def _frame(body: bytes) -> tuple[str, int, int] | None:
    """Returns the mode, width and height that a frame header states; None if it is unusual."""
    if len(body) < 6:
        return None
    precision, height, width, num_channels = struct.unpack_from(">BHHB", body)
    samplings = body[7::3]
    if (
        precision != _PRECISION
        or num_channels not in _CHANNELS
        or len(body) != 6 + 3 * num_channels
        or not 0 < width * height <= MAX_PIXELS
        or samplings[0] not in _SAMPLINGS
        or any(one != _FULL_SIZE for one in samplings[1:])
    ):
        return None
    return _CHANNELS[num_channels], width, height
