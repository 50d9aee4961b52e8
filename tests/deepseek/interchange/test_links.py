"""Links in folders and archives."""

import io
import tarfile
from pathlib import Path

import pytest

from common.errors import InvalidArgument
from deepseek.interchange.opening import Access
from tests.deepseek.interchange.imports import imported, reasons
from tests.harness.images import image_file


def test_links_that_lead_in_a_circle_end(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.png").write_bytes(image_file())
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a")
    _, samples, rejected = imported(tmp_path, Access(follow_links=True))
    assert {one.key for one in samples} == {"a/a.png", "a/to_b/b.png", "b/b.png", "b/to_a/a.png", "c/c.png"}
    assert reasons(rejected) == {"a/to_b/to_a": "BAD_FILE_NAME", "b/to_a/to_b": "BAD_FILE_NAME"}


def test_a_link_in_an_archive_is_kept_aside(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, target in (("1.txt", ""), ("2.txt", "1.txt"), ("3.txt", "")):
            member = tarfile.TarInfo(name)
            if target:
                member.type, member.linkname = tarfile.LNKTYPE, target
            else:
                member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
    _, samples, rejected = imported(tmp_path / "x.tar")
    assert [one.key for one in samples] == ["1", "3"]
    assert reasons(rejected) == {"x.tar/2.txt": "BAD_FILE_NAME"}


def test_folders_that_link_to_each_other_many_times_are_refused(tmp_path: Path) -> None:
    for level in range(40):
        folder = tmp_path / f"level{level:02}"
        folder.mkdir()
        for name in ("a", "b"):
            (folder / name).symlink_to(tmp_path / f"level{level + 1:02}")
    (tmp_path / "level40").mkdir()
    (tmp_path / "level40" / "one.txt").write_text("one")
    with pytest.raises(InvalidArgument, match="links lead to the same folder by more than 64 paths") as error:
        imported(tmp_path, Access(follow_links=True))
    assert (error.value.reason, error.value.field) == ("TOO_MANY_LINKS", "source")
    assert [one.reason for one in imported(tmp_path / "level40")[2]] == []
