"""Reads text files that people edit, the same way everywhere, whatever the editor adds.

UTF-8 with or without a byte order mark, and any of the three line endings. Not for files that only our own programs
write.
"""

import codecs
from pathlib import Path

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ASCII_IN_UTF_16 = ((0, 2), (1, 3))  # which of the first four bytes are zero


class NotUtf8(ValueError):
    """The file has another encoding. The message is to follow the file's name, e.g. `is UTF-16; save it as UTF-8`.

    Attributes:
        line: The first line that is not UTF-8, from 1.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def read_text(path: Path) -> str:
    """Returns a file's text without a byte order mark and with lines ended by `\\n`.

    Raises:
        NotUtf8: It is not UTF-8.
        OSError: It cannot be read.
    """
    return decode_text(path.read_bytes())


def read_secret(path: Path) -> str:
    """Returns the single key, token or password in a file, without surrounding whitespace.

    Raises:
        NotUtf8, OSError: As `read_text`.
    """
    return read_text(path).strip()


def decode_text(data: bytes) -> str:
    """Decodes the bytes of a file, as `read_text`.

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
