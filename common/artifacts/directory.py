"""An artifact store in a directory: the embedded default.

A blob is written to `<root>/.tmp` and synced, then renamed to its place, whose folder is synced: a rename is atomic, so
nobody sees half a blob. The folders above are synced once a process: that one is there does not prove that whoever made
it has come to syncing it. A writer holds a lock on its temporary file for as long as it lives; opening a store removes
the temporary files that nobody holds, which writers left that were killed. A blob's age is its modification time; who
makes it new shares a lock on its folder, who deletes by age holds that lock alone. Needs a file system with POSIX
rename and `flock` semantics.
"""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from common.artifacts.artifact import Artifact
from common.artifacts.store import CHUNK_BYTES, FULL, READ_ONLY, ArtifactStore, Stored, blob_key
from common.errors import DataLoss, FailedPrecondition, MeshError, NotFound, ResourceExhausted, Unavailable
from common.names import new_id

_BLOB_NAME = re.compile(r"[0-9a-f]{64}")


class DirectoryStore(ArtifactStore):
    """Blobs as files below a directory.

    Args:
        root: The directory.
        make: Make it, for this user only, if it is missing. Later nobody does: a disk that comes back would hide what
            was written meanwhile to a directory that only looked like it.

    Raises:
        Unavailable: STORE_UNREACHABLE if it is missing and not to be made.
    """

    def __init__(self, root: Path, *, make: bool = True) -> None:
        self._root = root
        # No tenant's name starts with a dot.
        self._temporary = root / ".tmp"
        self._durable: set[Path] = set()  # folders whose names this store has synced into the folders above
        with self._errors():
            if make:
                root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_root()
            self._remove_orphans()

    def check(self) -> None:
        """Returns if the directory is there."""
        with self._errors(), os.scandir(self._root):
            pass

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._translate(error) from error

    def _translate(self, error: OSError) -> MeshError:
        if error.errno in FULL:
            return ResourceExhausted(
                "STORE_FULL", f"no space left in the store at {self._root}; free some", field="store"
            )
        if error.errno in READ_ONLY:
            message = f"the store at {self._root} does not let us: {error.strerror}"
            return FailedPrecondition("STORE_READ_ONLY", message, field="store")
        message = f"the store at {self._root} does not answer: {error.strerror}"
        return Unavailable("STORE_UNREACHABLE", message, field="store", retry_delay_s=1)

    def _room(self) -> int | None:
        disk = os.statvfs(self._root)
        # Some network file systems do not report their size; a read-only one is not full, and fails on writing.
        is_known = disk.f_blocks and not disk.f_flag & os.ST_RDONLY
        return disk.f_bavail * disk.f_frsize if is_known else None

    @contextlib.contextmanager
    def _spool(self) -> Iterator[BinaryIO]:
        with self._errors():
            self._temporary.mkdir(mode=0o700, exist_ok=True)
            path, file = self._open_temporary()
        try:
            yield file
        finally:
            path.unlink(missing_ok=True)
            # What is still buffered was not wanted; on a full disk flushing it would fail again.
            with contextlib.suppress(OSError):
                file.close()

    def _open_temporary(self) -> tuple[Path, BinaryIO]:
        while True:
            path = self._temporary / new_id()
            file = path.open("xb")
            fcntl.flock(file, fcntl.LOCK_EX)
            # Someone who removes orphans may have found the file before it was locked.
            if os.fstat(file.fileno()).st_nlink:
                return path, file
            file.close()

    def _publish(self, file: BinaryIO, artifact: Artifact) -> None:
        os.fchmod(file.fileno(), 0o400)
        os.fsync(file.fileno())
        path = self._root / blob_key(artifact.tenant, artifact.sha256)
        self._make_folder(path.parent)
        with _locked(path.parent, fcntl.LOCK_SH) as folder:
            os.replace(file.name, path)
            os.fsync(folder)

    def _make_folder(self, folder: Path) -> None:
        if folder == self._root or (folder in self._durable and folder.is_dir()):
            return
        self._make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(folder.parent)
        self._durable.add(folder)

    def _holds(self, tenant: str, sha256: str, size_bytes: int) -> bool:
        # Reading costs less than writing and syncing, and so a damaged blob is replaced by whoever has it whole.
        try:
            if self.size(tenant, sha256) != size_bytes:
                return False
            self.verify(tenant, sha256)
        except (NotFound, DataLoss):
            return False
        path = self._root / blob_key(tenant, sha256)
        with self._errors():
            try:
                self._make_folder(path.parent)
                with _locked(path.parent, fcntl.LOCK_SH) as folder:
                    _make_new(path)
                    # Another writer may have renamed it, or made its folder, and not yet synced that.
                    os.fsync(folder)
            except FileNotFoundError:  # deleted meanwhile
                return False
        return True

    def _open(self, tenant: str, sha256: str) -> Iterator[bytes]:
        try:
            file = (self._root / blob_key(tenant, sha256)).open("rb", buffering=0)
        except FileNotFoundError:
            self._check_root()
            raise self._not_found(tenant, sha256) from None
        with file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def _size(self, tenant: str, sha256: str) -> int | None:
        try:
            return (self._root / blob_key(tenant, sha256)).stat().st_size
        except FileNotFoundError:
            self._check_root()
            return None

    def tenants(self) -> Iterator[str]:
        with self._errors():
            self._check_root()
            yield from sorted(folder.parent.name for folder in self._root.glob("[!.]*/sha256"))

    def _entries(self, tenant: str) -> Iterator[Stored]:
        with self._errors():
            try:
                folders = sorted((self._root / tenant / "sha256").iterdir())
            except FileNotFoundError:
                self._check_root()
                return
            for folder in folders:
                for name in sorted(name for name in os.listdir(folder) if _BLOB_NAME.fullmatch(name)):
                    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                        found = (folder / name).stat()
                        yield Stored(name, found.st_size, found.st_mtime_ns // 1000)

    def _expire(self, tenant: str, sha256: str, before_us: int) -> bool:
        path = self._root / blob_key(tenant, sha256)
        try:
            with _locked(path.parent, fcntl.LOCK_EX):
                if path.stat().st_mtime_ns // 1000 >= before_us:
                    return False
                path.unlink()
        except FileNotFoundError:
            self._check_root()
            return False
        return True

    def _delete(self, tenant: str, sha256: str) -> None:
        (self._root / blob_key(tenant, sha256)).unlink(missing_ok=True)

    def _check_root(self) -> None:
        # A file system that is not mounted must not look like an empty store.
        if not self._root.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the directory is gone", str(self._root))

    def _remove_orphans(self) -> None:
        try:
            orphans = list(self._temporary.iterdir())
        except FileNotFoundError:
            return
        for path in orphans:
            try:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            except (FileNotFoundError, BlockingIOError):
                continue
            except OSError as error:
                if error.errno not in READ_ONLY:
                    raise


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[int]:
    """Opens a folder and holds a lock on it, shared or alone."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how)
        yield descriptor
    finally:
        os.close(descriptor)


def _make_new(path: Path) -> None:
    with path.open("rb") as file:
        try:
            os.utime(file.fileno())
            os.fsync(file.fileno())
        except OSError as error:
            # Where nothing can be written, nothing can be deleted either.
            if error.errno not in READ_ONLY:
                raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
