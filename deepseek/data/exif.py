"""Reads the orientation of an image from EXIF or XMP, and updates the metadata of images that were rotated upright.

EXIF is changed in place, because rewriting the whole block would break the offsets in maker notes. A damaged block must
not prevent the image from being read. Pillow's own EXIF class is not used: it rewrites the block, and for a damaged
block it issues warnings and raises errors. Apart from the orientation, the only EXIF fields that are interpreted here
are the stated width and height.

Source: EXIF 2.32 (CIPA DC-008), 4.5 and 4.6; XMP specification part 2, `tiff:Orientation`.
"""

import re
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

UPRIGHT = 1

_FIRST_ON_SIDE, _LAST = 5, 8
_ORIENTATION, _SUBDIRECTORY, _WIDTH, _HEIGHT = 0x0112, 0x8769, 0xA002, 0xA003
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_INTEGERS = {3: "H", 4: "I"}
"""EXIF type codes of integers, each mapped to its `struct` format."""
_FIELD_BYTES, _TAG_BYTES, _HEAD_BYTES = 12, 2, 8
_DAMAGED = (LookupError, ValueError, struct.error)
_PREFIX = b"Exif\0\0"
_XMP = re.compile(rb'(tiff:Orientation(?:="|>))([0-9])')
RAW_PROFILE, _RAW_PROFILE_LINES = "Raw profile type exif", 3
"""Keyword of the PNG text chunk in which programs stored EXIF before the eXIf chunk existed. The chunk contains a few
header lines, followed by the EXIF block in hexadecimal. The second constant is the number of header lines."""


def orientation(info: Mapping[Any, Any]) -> int:
    """Returns the EXIF orientation of an image: 1 means upright; 2 to 8 mean mirrored, rotated or both.

    Args:
        info: Metadata of the image file, as read by Pillow. EXIF takes precedence over XMP. Damaged metadata is
            ignored.
    """
    found = None
    try:
        exif = info.get("exif") or bytes.fromhex("".join(info.get(RAW_PROFILE, "").split("\n")[_RAW_PROFILE_LINES:]))
        found = _Block(exif).orientation
    except _DAMAGED:
        pass
    if found is None and isinstance(xmp := info.get("xmp"), bytes) and (match := _XMP.search(xmp)):
        found = int(match[2])
    return found if found is not None and UPRIGHT < found <= _LAST else UPRIGHT


def swaps_sides(value: int) -> bool:
    """Returns whether rotating an image of this orientation upright swaps its width and height."""
    return value >= _FIRST_ON_SIDE


def upright_exif(exif: bytes, was: int) -> bytes:
    """Returns an EXIF block of the same length that describes the image after it has been rotated upright.

    The link to the thumbnail is removed, because the thumbnail itself is not rotated.

    Args:
        exif: Original block. It is returned unchanged if it is damaged.
        was: Orientation of the image before it was rotated.
    """
    try:
        block = _Block(exif)
        block.set_upright()
    except _DAMAGED:
        return exif
    if swaps_sides(was):
        with suppress(*_DAMAGED):
            block.swap_sides()
    return bytes(block.data)


def upright_xmp(xmp: bytes) -> bytes:
    """Returns XMP metadata in which the orientation, if it is stated, is set to upright."""
    return _XMP.sub(rb"\g<1>1", xmp)


class _Block:
    """A mutable EXIF block.

    Raises:
        LookupError, struct.error: The block is damaged. All methods raise the same errors.
    """

    def __init__(self, exif: bytes) -> None:
        self.data = bytearray(exif)
        self._base = 0
        while exif.startswith(_PREFIX, self._base):  # some programs write the prefix more than once
            self._base += len(_PREFIX)
        self._order = _BYTE_ORDERS[exif[self._base : self._base + 4]]
        self._main = self._base + self._integer("I", self._base + 4)
        self._fields = self._fields_at(self._main)

    @property
    def orientation(self) -> int | None:
        """Orientation that the block states; None if it states none."""
        return self._value(self._fields[_ORIENTATION]) if _ORIENTATION in self._fields else None

    def set_upright(self) -> None:
        """Sets the orientation to upright, if the block states one. Always removes the link to the thumbnail."""
        if _ORIENTATION in self._fields:
            at = self._fields[_ORIENTATION]
            struct.pack_into(self._order + self._code(at), self.data, at + _HEAD_BYTES, UPRIGHT)
        end = self._main + 2 + _FIELD_BYTES * self._integer("H", self._main)
        self.data[end : end + 4] = bytes(len(self.data[end : end + 4]))

    def swap_sides(self) -> None:
        """Swaps the width and the height that the block states. Does nothing unless the block states both."""
        if _SUBDIRECTORY not in self._fields:
            return
        fields = self._fields_at(self._base + self._value(self._fields[_SUBDIRECTORY]))
        if _WIDTH in fields and _HEIGHT in fields:
            first, second = (slice(fields[tag] + _TAG_BYTES, fields[tag] + _FIELD_BYTES) for tag in (_WIDTH, _HEIGHT))
            self.data[first], self.data[second] = self.data[second], self.data[first]

    def _fields_at(self, start: int) -> dict[int, int]:
        """Returns the position of each field in the directory that begins at `start`, keyed by the tag of the field."""
        end = start + 2 + _FIELD_BYTES * self._integer("H", start)
        positions = range(start + 2, min(end, len(self.data) - _FIELD_BYTES + 1), _FIELD_BYTES)
        return {self._integer("H", at): at for at in positions}

    def _value(self, at: int) -> int:
        return self._integer(self._code(at), at + _HEAD_BYTES)

    def _code(self, at: int) -> str:
        return _INTEGERS[self._integer("H", at + _TAG_BYTES)]

    def _integer(self, code: str, at: int) -> int:
        (value,) = struct.unpack_from(self._order + code, self.data, at)
        return int(value)
