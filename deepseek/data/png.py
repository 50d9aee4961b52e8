"""Rewrites PNG files for Pillow: removes metadata that Pillow cannot handle, and rescales the transparent colour.

Pillow rejects the whole file if a compressed metadata chunk exceeds a process-wide limit. Pillow also stores the text
chunks of a file in `Image.info`, where their names may collide with those of Pillow's own entries. Finally, Pillow
compares the transparent colour (chunk tRNS) with pixels that it has converted to a different scale. So these chunks are
removed or changed before Pillow reads the file. Pixels are not decoded here.

Source: PNG specification, third edition (W3C, 2025), 5.3 and 11.3; Pillow 13.0.0, `PngImagePlugin.py`.
"""

import struct
import zlib
from collections.abc import Iterator

from PIL import PngImagePlugin

from deepseek.data.exif import RAW_PROFILE

MAX_INFLATED = 64 * 1024 * 1024
"""Maximum total size of a file's decompressed metadata, in bytes. Files with more metadata are rejected: no program
writes such files, and readers might keep all of the metadata in memory."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK_BYTES = 12
_GREY, _COLOUR = 0, 2
_PROFILE = b"iCCP"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_KEPT_TEXTS = (b"XML:com.adobe.xmp", RAW_PROFILE.encode())
_STEP = 1024 * 1024


def readable(data: bytes) -> bytes:
    """Returns a version of a PNG file that has the same pixels and that Pillow reads correctly.

    Removes all text chunks except those that hold XMP or EXIF. Also removes XMP, EXIF and profile chunks that Pillow
    considers too large.

    Args:
        data: Content of any file. A file that is not PNG is returned unchanged, so that Pillow reports the problem.
            For the same reason, damaged chunks are kept if they need not be removed or changed.

    Raises:
        ValueError: The metadata decompresses to more than MAX_INFLATED bytes, or a chunk that must be removed or
            changed is damaged.
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
                    raise ValueError(f"the metadata decompresses to more than {MAX_INFLATED} bytes; remove some of it")
            num_inflated += size
            if size >= PngImagePlugin.MAX_TEXT_CHUNK or (kind in _TEXTS and keyword not in _KEPT_TEXTS):
                new = b""
        if new is None:
            continue
        if data[end - 4 : end] != struct.pack(">I", zlib.crc32(data[start + 4 : end - 4])):
            raise ValueError(f"the PNG chunk {kind.decode()} is damaged: its checksum is wrong")
        pieces += data[copied:start], new
        copied = end
    return b"".join([*pieces, data[copied:]]) if pieces else data


def profile(data: bytes) -> bytes | None:
    """Returns the colour profile of a file that `readable` accepts; None if the profile is missing or damaged.

    Pass the original file, because `readable` removes profiles that are too large for Pillow. A profile has at most
    MAX_INFLATED bytes, because `readable` rejects files with more metadata.
    """
    if data.startswith(_SIGNATURE):
        for kind, start, end in _chunks(data):
            if kind == _PROFILE:
                try:
                    return zlib.decompress(_parts(kind, data[start + 8 : end - 4])[1])
                except zlib.error:
                    return None
    return None


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields the type, start offset and end offset of each complete chunk before the IEND chunk."""
    start = len(_SIGNATURE)
    while start + _CHUNK_BYTES <= len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        end = start + _CHUNK_BYTES + size
        if end > len(data) or kind == b"IEND":
            return
        yield kind, start, end
        start = end


def _scaled(body: bytes, depth: int, colour: int) -> bytes | None:
    """Returns a tRNS chunk with its values converted to the 8-bit scale of Pillow's pixels; None if nothing changes.

    Nothing changes for 16-bit grey images, because Pillow keeps all 16 bits of their pixels.
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
    """Returns the keyword of a text or profile chunk, and the compressed data, which is empty for uncompressed text."""
    keyword, _, rest = body.partition(b"\0")
    if kind == b"tEXt":
        return keyword, b""
    if kind == b"iTXt":
        return keyword, rest[2:].split(b"\0", 2)[-1] if rest[:1] == b"\1" else b""
    return keyword, rest[1:]


def _inflate(packed: bytes) -> Iterator[int]:
    """Decompresses data in steps, and yields the number of bytes that each step produced. The bytes are not kept.

    Damaged data ends the iteration without an error, because Pillow ignores such data as well.
    """
    inflater = zlib.decompressobj()
    try:
        while packed and not inflater.eof:
            yield len(inflater.decompress(packed, _STEP))
            packed = inflater.unconsumed_tail
    except zlib.error:
        return
