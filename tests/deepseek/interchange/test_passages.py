"""Text files that are cut into passages."""

from pathlib import Path

import pytest

from common.errors import InvalidArgument
from deepseek.data.rejected import Rejected
from deepseek.interchange.opening import open_source
from deepseek.interchange.tables import MAX_PASSAGE
from tests.deepseek.interchange.imports import imported


def test_passages_hold_the_whole_text_with_its_line_ends(tmp_path: Path) -> None:
    (tmp_path / "novel.txt").write_bytes("one\r\ntwo\n\nthree, fünf".encode())
    rows = list(open_source(str(tmp_path / "novel.txt"), passage=5).rows())
    texts = [row.values["text"] for row in rows if not isinstance(row, Rejected)]
    assert texts == ["one\nt", "wo\n\nt", "hree,", " fünf"]
    assert [row.key for row in rows] == ["novel.txt#1", "novel.txt#2", "novel.txt#3", "novel.txt#4"]


def test_a_passage_that_is_not_text_is_kept_aside(tmp_path: Path) -> None:
    (tmp_path / "novel.txt").write_bytes(b"good \xff bad, good")
    first, broken, *others = open_source(str(tmp_path / "novel.txt"), passage=5).rows()
    texts = [row.values["text"] for row in (first, *others) if not isinstance(row, Rejected)]
    assert texts == ["good ", ", goo", "d"]
    assert isinstance(broken, Rejected)
    assert (broken.reason, broken.key) == ("BAD_TEXT", "novel.txt#2")
    assert broken.values == {"text": [b"\xff bad"]}


def test_a_rejected_passage_keeps_the_split_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_bytes(b"good \xff bad, good")
    found, samples, (rejected,) = imported(tmp_path / "test.txt", passage=5)
    assert {one.split for one in samples} == {rejected.split} == {"test"}
    assert found.report.rejected == {"BAD_TEXT": 1}


@pytest.mark.parametrize("passage", [0, -5, MAX_PASSAGE + 1])
def test_a_passage_has_at_least_one_character_and_fits_into_a_sample(tmp_path: Path, passage: int) -> None:
    (tmp_path / "novel.txt").write_text("long")
    with pytest.raises(InvalidArgument, match=f"use 1 to {MAX_PASSAGE}") as caught:
        open_source(str(tmp_path / "novel.txt"), passage=passage)
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "passage")
    (row,) = open_source(str(tmp_path / "novel.txt"), passage=MAX_PASSAGE).rows()
    assert not isinstance(row, Rejected)


def test_only_a_text_file_has_passages(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "table.csv"):
        with pytest.raises(InvalidArgument, match="only a text file") as caught:
            open_source(str(place), passage=5)
        assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "passage")
