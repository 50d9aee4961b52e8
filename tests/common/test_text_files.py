import codecs
from pathlib import Path

import pytest

from common.text_files import NotUtf8, decode_text, read_secret, read_text

EDITED = {
    "as written": lambda text: text.encode(),
    "byte order mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "lines of Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "lines of old Macs": lambda text: text.replace("\n", "\r").encode(),
    "both": lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(),
}
"""Forms in which editors save a text."""


@pytest.mark.parametrize("edit", EDITED.values(), ids=EDITED)
def test_a_text_is_read_as_it_was_meant(edit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "text"
    path.write_bytes(edit("größe\n\u2028 \n"))
    assert read_text(path) == "größe\n\u2028 \n"
    path.write_bytes(edit(" the key\u00a0\n\n"))
    assert read_secret(path) == "the key"


def test_a_mark_within_the_text_stays() -> None:
    assert decode_text("a\ufeffb".encode()) == "a\ufeffb"
    assert decode_text(b"") == ""


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_is_told_from_other_encodings(encoding: str) -> None:
    with pytest.raises(NotUtf8, match=r"^is UTF-16; save it as UTF-8$") as caught:
        decode_text("a.png\tis it?\n".encode(encoding))
    assert caught.value.line == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_another_encoding_is_named_by_its_line(end: str) -> None:
    with pytest.raises(NotUtf8, match=r"^is not UTF-8 \(byte 0xfc in line 3\); save it as UTF-8$") as caught:
        decode_text(end.join(["a", "b", "größe".replace("ö", "ü"), "ü"]).encode("latin-1"))
    assert caught.value.line == 3


def test_a_single_nul_makes_no_utf_16() -> None:
    assert decode_text(b"a\0b") == "a\0b"
