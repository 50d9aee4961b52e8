"""Rewrites PNG files so that Pillow reads them correctly: removes metadata that it refuses, and rescales tRNS.

Pillow refuses a whole file because of one compressed metadata chunk above a process-wide limit, stores text under the
same names as its own values, and compares the transparent colour (tRNS) on another scale than the pixels. These parts
are changed in the bytes before Pillow reads them. Pixels are not decoded here.

Source: PNG specification, third edition (W3C, 2025), 5.3 and 11.3; Pillow 13.0.0, `PngImagePlugin.py`.
"""

import struct
import zlib
from collections.abc import Iterator

from PIL import PngImagePlugin

from deepseek.data.exif import RAW_PROFILE

MAX_INFLATED = 64 * 1024 * 1024
"""Files whose metadata decompresses to more bytes are refused: no program writes them, and some would keep it all."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK_BYTES = 12
_GREY, _COLOUR = 0, 2
_PROFILE = b"iCCP"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_KEPT_TEXTS = (b"XML:com.adobe.xmp", RAW_PROFILE.encode())
_STEP = 1024 * 1024


def readable(data: bytes) -> bytes:
    """Returns a file with the same pixels that Pillow reads correctly.

    Text other than XMP and EXIF is removed, and so is metadata that Pillow considers too large.

    Args:
        data: Any file; a file that is not PNG, or damaged, is returned unchanged, so that Pillow reports it.

    Raises:
        ValueError: The metadata decompresses to more than MAX_INFLATED, or is damaged.
    """
    if not data.startswith(_SIGNATURE):
        return data
    pieces: list[bytes] = []
    copied = num_inflated = depth = colour = 0
    for kind, start, end in _chunks(data):
        body = data[start + 8 : end - 4] if kind in (b"IHDR", b"tRNS", _PROFILE, *_TEXTS) else b""
        new = None
        if kind == b"IHDR" and len(body) >= 10:
            depth, colour = body[8:10]
        elif kind == b"tRNS":
            new = _scaled(body, depth, colour)
        elif kind == _PROFILE or kind in _TEXTS:
            keyword, packed = _parts(kind, body)
            size = 0
            for num_bytes in _inflate(packed):
                size += num_bytes
                if num_inflated + size > MAX_INFLATED:
                    raise ValueError(f"its metadata decompresses to more than {MAX_INFLATED} bytes")
            num_inflated += size
            if size >= PngImagePlugin.MAX_TEXT_CHUNK or (kind in _TEXTS and keyword not in _KEPT_TEXTS):
                new = b""
        if new is None:
            continue
        if data[end - 4 : end] != struct.pack(">I", zlib.crc32(data[start + 4 : end - 4])):
            raise ValueError(f"its chunk {kind.decode()} is damaged")
        pieces += data[copied:start], new
        copied = end
    return b"".join([*pieces, data[copied:]]) if pieces else data


def profile(data: bytes) -> bytes | None:
    """Returns the colour profile, of any size, of a file that `readable` accepts; None if missing or damaged."""
    if data.startswith(_SIGNATURE):
        for kind, start, end in _chunks(data):
            if kind == _PROFILE:
                try:
                    return zlib.decompress(_parts(kind, data[start + 8 : end - 4])[1])
                except zlib.error:
                    return None
    return None


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields kind, start and end of each complete chunk."""
    start = len(_SIGNATURE)
    while start + _CHUNK_BYTES <= len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        end = start + _CHUNK_BYTES + size
        if end > len(data) or kind == b"IEND":
            return
        yield kind, start, end
        start = end


def _scaled(body: bytes, depth: int, colour: int) -> bytes | None:
    """Returns a tRNS chunk on the 8-bit scale of Pillow's pixels; None if no change is needed.

    Pillow keeps all bits of 16-bit grey.
    """
    if colour == _GREY and depth in (2, 4) and len(body) >= 2:
        (value,) = struct.unpack_from(">H", body)
        scaled = struct.pack(">H", value % (1 << depth) * 255 // ((1 << depth) - 1))
    elif colour == _COLOUR and depth == 16 and len(body) >= 6:
        scaled = struct.pack(">3H", *body[:6:2])
    else:
        return None
    return struct.pack(">I", len(scaled)) + b"tRNS" + scaled + struct.pack(">I", zlib.crc32(b"tRNS" + scaled))


def _parts(kind: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Returns the keyword of a text or profile chunk, and its compressed part."""
    keyword, _, rest = body.partition(b"\0")
    if kind == b"tEXt":
        return keyword, b""
    if kind == b"iTXt":
        return keyword, rest[2:].split(b"\0", 2)[-1] if rest[:1] == b"\1" else b""
    return keyword, rest[1:]


def _inflate(packed: bytes) -> Iterator[int]:
    """Yields the number of decompressed bytes per step, and keeps none; stops at damage, which Pillow ignores."""
    inflater = zlib.decompressobj()
    try:
        while packed and not inflater.eof:
            yield len(inflater.decompress(packed, _STEP))
            packed = inflater.unconsumed_tail
    except zlib.error:
        return
