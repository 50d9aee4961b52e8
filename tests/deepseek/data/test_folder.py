import unicodedata
from pathlib import Path

import pytest

from common.errors import InvalidArgument
from deepseek.data.folder import Folder

COMPOSED, DECOMPOSED = "é/ẅ.png", unicodedata.normalize("NFD", "é/ẅ.png")


def make(folder: Path, *names: str) -> Folder:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return Folder(folder)


@pytest.mark.parametrize("there", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("written", [COMPOSED, DECOMPOSED])
def test_a_file_is_found_in_either_spelling_of_its_folders_and_itself(tmp_path: Path, there: str, written: str) -> None:
    assert make(tmp_path, there).file(written).read_text() == there


def test_the_spelling_as_written_takes_precedence(tmp_path: Path) -> None:
    folder = make(tmp_path, COMPOSED, DECOMPOSED)
    assert [folder.file(name).read_text() for name in (COMPOSED, DECOMPOSED)] == [COMPOSED, DECOMPOSED]


def test_several_other_spellings_are_named(tmp_path: Path) -> None:
    folder = make(tmp_path, "\u1e69.png", "s\u0323\u0307.png")
    with pytest.raises(InvalidArgument) as caught:
        folder.file("\u1e61\u0323.png")
    assert caught.value.reason == "FILE_NOT_FOUND"
    assert r"only in other Unicode forms: 's\u0323\u0307.png', '\u1e69.png'; rename" in caught.value.message


@pytest.mark.parametrize(
    "name", [".hidden.png", " a.png", "a.png ", "a b.png", "a\u00a0b.png", "\u202fa.png", "a\u200d.png"]
)
def test_unusual_names_are_found_as_they_are(tmp_path: Path, name: str) -> None:
    make(tmp_path, name)
    assert Folder(tmp_path).file(name).name == name


def test_space_around_a_name_is_ignored_unless_it_is_part_of_the_name(tmp_path: Path) -> None:
    folder = make(tmp_path, "a.png", "b.png", "b.png ")
    assert [folder.file(name).name for name in (" a.png\u00a0", "b.png", "b.png ")] == ["a.png", "b.png", "b.png "]


@pytest.mark.parametrize(
    ("there", "written", "hint"),
    [
        ("at 3.04\u202fPM.png", "at 3.04 PM.png", r"'at 3.04\u202fPM.png'"),
        ("Caf\u00e9.PNG", "cafe\u0301.png", r"'Caf\xe9.PNG'"),
        ("a.png", "\ufeffa.png", "'a.png'"),
    ],
)
def test_a_similar_name_is_suggested(tmp_path: Path, there: str, written: str, hint: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make(tmp_path, there).file(written)
    assert caught.value.reason == "FILE_NOT_FOUND"
    assert caught.value.message.endswith(f"; did you mean {hint}?")


@pytest.mark.parametrize("name", ["x.png", "no/a.png", "a.png/b.png", "x" * 300, "x" * 5000])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match="which is not in") as caught:
        make(tmp_path, "a.png").file(name)
    assert caught.value.reason == "FILE_NOT_FOUND"


@pytest.mark.parametrize(
    "name", ["../a.png", " ../a.png", "a/../../a.png", "/a.png", " /a.png", "..\\a.png", "a\0", "out/a.png"]
)
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path / "in", "b.png")
    (tmp_path / "in" / "out").symlink_to(tmp_path)
    (tmp_path / "a.png").write_text("")
    with pytest.raises(InvalidArgument) as caught:
        folder.file(name)
    assert caught.value.reason == "BAD_FILE_NAME"
