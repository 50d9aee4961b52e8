"""What is special about a store in a directory: temporary files, full and read-only file systems."""

import errno
import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.artifacts.directory import DirectoryStore
from common.errors import FailedPrecondition, ResourceExhausted, Unavailable
from tests.harness import mounts

REPOSITORY = Path(__file__).parents[3]
TENANT = "default"
TEXT = "text/plain"

WRITER = """
import sys
from pathlib import Path
from common.artifacts.directory import DirectoryStore

def chunks():
    yield b"half" * 1_000_000
    print("half", flush=True)
    sys.stdin.read()

DirectoryStore(Path(sys.argv[1])).put("default", chunks(), "text/plain")
"""


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_the_layout_is_tenant_then_digest_and_private(tmp_path: Path) -> None:
    root = tmp_path / "a" / "store"
    artifact = DirectoryStore(root).put(TENANT, b"blob", TEXT)

    path = root / TENANT / "sha256" / artifact.sha256[:2] / artifact.sha256
    assert _files(root) == [path]
    assert path.read_bytes() == b"blob"
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_what_is_stored_already_is_not_written_again(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    artifact = store.put(TENANT, b"blob", TEXT)
    (path,) = _files(tmp_path)
    before = path.stat()

    (tmp_path / "source").write_bytes(b"blob")
    store.put(TENANT, b"blob", TEXT)
    store.put(TENANT, tmp_path / "source", TEXT, expected_sha256=artifact.sha256)

    assert path.stat().st_ino == before.st_ino


def test_a_damaged_blob_is_mended_by_a_put(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    artifact = store.put(TENANT, b"blob", TEXT)
    (path,) = _files(tmp_path)
    path.chmod(0o600)
    path.write_bytes(b"blub")

    store.put(TENANT, b"blob", TEXT)

    assert store.read(TENANT, artifact.sha256) == b"blob"


def test_other_files_in_the_directory_are_not_blobs(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    artifact = store.put(TENANT, b"blob", TEXT)
    (tmp_path / TENANT / "sha256" / artifact.sha256[:2] / "README").write_text("hello")

    assert list(store.list(TENANT)) == [artifact.sha256]


@pytest.mark.faults
def test_temporary_files_of_a_killed_writer_go_when_the_store_is_opened_and_no_others(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"half\n"
        killed.kill()
    assert len(_files(tmp_path)) == 1

    half, go_on = threading.Event(), threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"first half, "
        half.set()
        assert go_on.wait(30)
        yield b"second half"

    store = DirectoryStore(tmp_path)
    assert _files(tmp_path) == []
    writer = threading.Thread(target=lambda: store.put(TENANT, chunks(), TEXT))
    writer.start()
    assert half.wait(30)
    DirectoryStore(tmp_path)
    assert len(_files(tmp_path)) == 1
    go_on.set()
    writer.join(30)

    assert store.read(TENANT, hashlib.sha256(b"first half, second half").hexdigest()) == b"first half, second half"
    assert len(_files(tmp_path)) == 1


@pytest.mark.faults
def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "small", "4m") as root:
        store = DirectoryStore(root / "store")
        kept = store.put(TENANT, b"kept", TEXT)
        for source in (b"x" * 8_000_000, iter([b"y" * 100_000] * 80)):
            with pytest.raises(ResourceExhausted) as caught:
                store.put(TENANT, source, TEXT)
            assert (caught.value.reason, caught.value.field) == ("STORE_FULL", "store")
        assert list(store.list(TENANT)) == [kept.sha256]
        assert len(_files(root)) == 1

        # The space of what failed is free again.
        large = store.put(TENANT, b"z" * 3_000_000, TEXT)
        assert store.read(TENANT, large.sha256) == b"z" * 3_000_000
        assert store.read(TENANT, kept.sha256) == b"kept"


@pytest.mark.faults
def test_a_full_disk_under_a_fetched_copy_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    artifact = store.put(TENANT, b"x" * 8_000_000, TEXT)
    with mounts.tmpfs(tmp_path / "small", "4m") as small:
        with pytest.raises(ResourceExhausted) as caught:
            store.fetch(TENANT, artifact.sha256, small / "copy")
        assert (caught.value.reason, caught.value.field) == ("DISK_FULL", "path")
        assert list(small.iterdir()) == []


@pytest.mark.faults
def test_a_file_size_limit_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(ResourceExhausted) as caught:
            store.put(TENANT, b"x" * 2_000_000, TEXT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)

    assert (caught.value.reason, caught.value.field) == ("STORE_FULL", "store")
    assert _files(tmp_path) == []


@pytest.mark.faults
def test_a_read_only_store_is_an_error_for_writers_and_serves_readers(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "mount") as root:
        kept = DirectoryStore(root / "store").put(TENANT, b"kept", TEXT)
        (root / "store" / ".tmp" / "orphan").write_bytes(b"left by a killed writer")
        mounts.make_read_only(root)

        store = DirectoryStore(root / "store")
        store.check()
        assert store.read(TENANT, kept.sha256) == b"kept"
        assert store.put(TENANT, b"kept", TEXT) == kept
        for call in (lambda: store.put(TENANT, b"new", TEXT), lambda: store.delete(TENANT, kept.sha256)):
            with pytest.raises(FailedPrecondition) as caught:
                call()
            assert (caught.value.reason, caught.value.field) == ("STORE_READ_ONLY", "store")
        with pytest.raises(FailedPrecondition):
            DirectoryStore(root / "another")
        assert store.read(TENANT, kept.sha256) == b"kept"


def test_a_directory_that_is_gone_does_not_look_like_an_empty_store(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    artifact = store.put(TENANT, b"blob", TEXT)
    (tmp_path / "store").rename(tmp_path / "elsewhere")

    for call in (
        store.check,
        lambda: store.read(TENANT, artifact.sha256),
        lambda: store.exists(TENANT, artifact.sha256),
        lambda: list(store.list(TENANT)),
        lambda: list(store.tenants()),
        lambda: store.expire(TENANT, artifact.sha256, 0),
    ):
        with pytest.raises(Unavailable) as caught:
            call()
        assert (caught.value.reason, caught.value.field) == ("STORE_UNREACHABLE", "store")


def test_the_sources_own_errors_are_not_the_stores(tmp_path: Path) -> None:
    def full() -> Iterator[bytes]:
        yield b"half"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = DirectoryStore(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        store.put(TENANT, full(), TEXT)
    with pytest.raises(FileNotFoundError):
        store.put(TENANT, tmp_path / "absent", TEXT)
    assert _files(tmp_path) == []


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were synced, in order."""
    folders: list[Path] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            folders.append(path)

    monkeypatch.setattr(os, "fsync", record)
    return folders


@pytest.mark.parametrize("who_was_first", ["made the folder", "put the blob"])
def test_what_another_writer_may_not_have_synced_is_synced_before_a_blob_is_acknowledged(
    tmp_path: Path, synced: list[Path], who_was_first: str
) -> None:
    sha256 = hashlib.sha256(b"blob").hexdigest()
    leaf = tmp_path / TENANT / "sha256" / sha256[:2]
    if who_was_first == "made the folder":
        leaf.mkdir(parents=True)
    else:
        DirectoryStore(tmp_path).put(TENANT, b"blob", TEXT)
    synced.clear()

    store = DirectoryStore(tmp_path)
    store.put(TENANT, b"blob", TEXT)
    assert synced == [tmp_path, tmp_path / TENANT, tmp_path / TENANT / "sha256", leaf]

    synced.clear()
    store.put(TENANT, b"blob", TEXT)
    assert synced == [leaf]


def test_a_directory_that_goes_away_is_not_made_again(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    store = DirectoryStore(root)
    kept = store.put(TENANT, b"kept", TEXT)

    def chunks() -> Iterator[bytes]:
        yield b"written when"
        root.rename(elsewhere)
        yield b"it went away"

    with pytest.raises(Unavailable) as caught:
        store.put(TENANT, chunks(), TEXT)
    assert caught.value.reason == "STORE_UNREACHABLE"
    with pytest.raises(Unavailable) as caught:
        DirectoryStore(root, make=False)
    assert caught.value.reason == "STORE_UNREACHABLE"
    assert not root.exists()

    elsewhere.rename(root)
    assert DirectoryStore(root, make=False).read(TENANT, kept.sha256) == b"kept"
