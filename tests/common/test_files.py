"""Files that appear whole or not at all."""

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import FailedPrecondition, MeshError, ResourceExhausted, Unavailable
from common.files import create_file, disk_error, replace_file, sync_folder

OLD, NEW = b"old content", b"new content"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_bytes(OLD)
    return file


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kinds of what was synced, in order."""
    names: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        fsync(descriptor)
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        names.append("folder" if is_folder else "file")

    monkeypatch.setattr(os, "fsync", record)
    return names


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", [NEW, [b"new ", b"content"], iter([b"new", b" ", b"content"])])
def test_a_file_is_replaced_by_bytes_or_by_chunks(path: Path, content: bytes | list[bytes]) -> None:
    replace_file(path, content)
    assert path.read_bytes() == NEW
    assert names_in(path.parent) == ["file"]


def test_durable_content_is_synced_before_the_rename_and_the_folder_after_it(path: Path, synced: list[str]) -> None:
    replace_file(path, NEW)
    assert synced == ["file", "folder"]


def test_content_that_need_not_be_durable_is_not_synced(path: Path, synced: list[str]) -> None:
    replace_file(path, NEW, durable=False)
    assert (path.read_bytes(), synced) == (NEW, [])


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_new_file_has_its_mode_from_the_first_byte_on(tmp_path: Path, mode: int) -> None:
    seen = []

    def chunks() -> Iterator[bytes]:
        (temporary,) = tmp_path.iterdir()
        seen.append(stat.S_IMODE(temporary.stat().st_mode))
        yield NEW

    before = os.umask(0o022)
    try:
        replace_file(tmp_path / "file", chunks(), mode=mode)
    finally:
        os.umask(before)
    seen.append(stat.S_IMODE((tmp_path / "file").stat().st_mode))
    assert seen == [mode, mode]


def test_a_wider_mode_of_the_old_file_is_not_kept(path: Path) -> None:
    path.chmod(0o666)
    replace_file(path, NEW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_crash_between_write_and_rename_leaves_the_old_file(path: Path) -> None:
    program = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from common.files import replace_file\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"replace_file(Path({str(path)!r}), {NEW!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == OLD
    replace_file(path, NEW)
    assert path.read_bytes() == NEW


def test_an_error_of_the_source_leaves_the_old_file(path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"new"
        raise ConnectionError("the line broke")

    with pytest.raises(ConnectionError, match="the line broke"):
        replace_file(path, chunks())
    assert path.read_bytes() == OLD
    assert names_in(path.parent) == ["file"]


@pytest.mark.parametrize("fails", ["write", "fsync", "rename"])
def test_a_full_disk_leaves_the_old_file_and_is_reported(
    path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    content: bytes | Iterator[bytes] = NEW
    if fails == "write":
        content = map(full, [NEW])  # type: ignore[arg-type]  # it never returns
    elif fails == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        replace_file(path, content)
    assert disk_error(caught.value, path).reason == "DISK_FULL"
    assert path.read_bytes() == OLD
    assert names_in(path.parent) == ["file"]


def test_concurrent_writers_leave_one_whole_file(path: Path) -> None:
    contents = [bytes([number]) * 100_000 for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: replace_file(path, content, durable=False), contents))
    assert path.read_bytes() in contents
    assert names_in(path.parent) == ["file"]


def test_a_symbolic_link_is_replaced_and_its_target_kept(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    replace_file(link, NEW)
    assert (link.is_symlink(), link.read_bytes(), path.read_bytes()) == (False, NEW, OLD)


def test_a_long_name_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    replace_file(path, NEW)
    assert path.read_bytes() == NEW


def test_a_file_is_created_once(tmp_path: Path, synced: list[str]) -> None:
    path = tmp_path / "file"
    assert create_file(path, OLD)
    assert synced == ["file", "folder"]
    assert not create_file(path, NEW)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (OLD, 0o600)
    assert names_in(tmp_path) == ["file"]


def test_of_concurrent_creators_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 1000 for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda content: create_file(path, content), contents))
    assert [content for content, won in zip(contents, created, strict=True) if won] == [path.read_bytes()]


def test_a_missing_folder_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "missing" / "file", NEW)
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "missing")


@pytest.mark.parametrize(
    ("number", "kind", "reason"),
    [
        (errno.ENOSPC, ResourceExhausted, "DISK_FULL"),
        (errno.EDQUOT, ResourceExhausted, "DISK_FULL"),
        (errno.EFBIG, ResourceExhausted, "DISK_FULL"),
        (errno.EROFS, FailedPrecondition, "DISK_READ_ONLY"),
        (errno.EACCES, FailedPrecondition, "DISK_READ_ONLY"),
        (errno.EIO, Unavailable, "DISK_UNAVAILABLE"),
    ],
)
def test_an_error_of_the_disk_says_what_to_do(number: int, kind: type[MeshError], reason: str) -> None:
    error = disk_error(OSError(number, os.strerror(number)), Path("/data/log"), "the audit log")
    assert (type(error), error.reason, error.field) == (kind, reason, "path")
    assert "the audit log in /data/log" in error.message
