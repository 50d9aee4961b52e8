#!/bin/sh
# Pillow 13.0.0 ignores the transparent colour of grey PNG files with 2 or 4 bits per pixel.
#
# A grey PNG file stores its transparent colour in tRNS as a sample with the bit depth of the file (PNG, third edition,
# 11.3.1.1): white is 3 in a 2-bit file and 15 in a 4-bit file. Pillow scales the pixels to 0..255 when it reads them,
# but compares them with the unscaled number. White (255) therefore never equals 3, and the image is opaque. In a 1-bit
# or 8-bit file, the same pixels are transparent, as in a browser.
#
# Expected: white pixels have alpha 0 at every bit depth. Observed: alpha 0 with 1 bit, 255 with 2 bits, 255 with 4
# bits, and 0 with 8 bits.
# Exits with 1 if the result changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" pillow==13.0.0
PYTHONPATH=$folder python3 - <<'PYTHON'
import io
import struct
import sys
import zlib

import PIL
from PIL import Image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(depth: int) -> bytes:
    """8 x 1 pixels, alternately black and white; white is transparent."""
    white = (1 << depth) - 1
    bits = "".join(f"{white * (i % 2):0{depth}b}" for i in range(8))
    row = b"\0" + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    header = struct.pack(">IIBBBBB", 8, 1, depth, 0, 0, 0, 0)
    parts = (b"IHDR", header), (b"tRNS", struct.pack(">H", white)), (b"IDAT", zlib.compress(row)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


seen = {}
for depth in (1, 2, 4, 8):
    picture = Image.open(io.BytesIO(png(depth))).convert("RGBA")
    black, white = picture.getpixel((0, 0)), picture.getpixel((1, 0))
    assert black == (0, 0, 0, 255) and white[:3] == (255, 255, 255)
    seen[depth] = white[3]
print("Pillow", PIL.__version__, "alpha of a white pixel that tRNS makes transparent, by bits:", seen)
sys.exit(seen != {1: 0, 2: 255, 4: 255, 8: 0})
PYTHON
