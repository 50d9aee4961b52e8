"""Reads text files that people edit: UTF-8 with or without a byte order mark, and with any line endings.

Files that only our own programs write do not need this module.
"""

import codecs
from pathlib import Path

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ASCII_IN_UTF_16 = ((0, 2), (1, 3))  # which of the first four bytes are zero


class NotUtf8(ValueError):
    """The file is not UTF-8. The message is meant to follow the file's name, e.g. `is UTF-16; save it as UTF-8`.

    Attributes:
        line: Number of the first line that is not UTF-8, starting at 1.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def read_text(path: Path) -> str:
    """Returns the text of a file, without a byte order mark and with `\\n` as the line ending.

    Raises:
        NotUtf8: The file is not UTF-8.
        OSError: The file cannot be read.
    """
    return decode_text(path.read_bytes())


def read_secret(path: Path) -> str:
    """Returns the single key, token or password in a file, without surrounding whitespace.

    Raises:
        NotUtf8, OSError: See `read_text`.
    """
    return read_text(path).strip()


def decode_text(data: bytes) -> str:
    """Decodes the bytes of a file in the same way as `read_text`.

    >>> decode_text(b"\\xef\\xbb\\xbfa\\r\\nb\\rc")
    'a\\nb\\nc'

    Raises:
        NotUtf8: The bytes are not UTF-8.
    """
    if data.startswith(_UTF_16) or any(len(data) > j and not data[i] and not data[j] for i, j in _ASCII_IN_UTF_16):
        raise NotUtf8("is UTF-16; save it as UTF-8", 1)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        line = before.count(b"\n") + 1
        message = f"is not UTF-8 (byte 0x{data[error.start]:02x} in line {line}); save it as UTF-8"
        raise NotUtf8(message, line) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
