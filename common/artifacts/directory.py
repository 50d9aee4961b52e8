"""An artifact store in a directory: the default of the embedded mesh.

A blob is written to a temporary file in `<root>/.tmp`. The file is synced and then renamed, so that no reader sees a
partial blob. The blob's folder is synced afterwards. Parent folders are synced once per process even if they exist, as
their creator may have been killed before it synced them. Writers lock their temporary files. An unlocked temporary file
thus belongs to a killed writer, and is removed when a store is opened. A blob's age is its file's age. A put resets it
under a shared lock on the folder; deletion by age takes an exclusive lock. Requires POSIX `rename` and `flock`.
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
from common.artifacts.blob import CHUNK_BYTES, BlobInfo, blob_key
from common.artifacts.store import ArtifactStore
from common.errors import DataLoss, FailedPrecondition, MeshError, NotFound, ResourceExhausted, Unavailable
from common.files import FULL, READ_ONLY, sync_folder
from common.names import new_id

_BLOB_NAME = re.compile(r"[0-9a-f]{64}")


class DirectoryStore(ArtifactStore):
    """A store that keeps each blob in a file below a directory.

    Args:
        root: The directory.
        make: Whether to create the directory, accessible only to this user, if it is missing. Later writes never create
            the directory: if its disk were unmounted at that time, the directory would be created on another disk, and
            the blobs in it would be hidden once the disk is mounted again.

    Raises:
        Unavailable: STORE_UNREACHABLE if the directory is missing and `make` is false.
    """

    def __init__(self, root: Path, *, make: bool = True) -> None:
        self._root = root
        # Cannot clash with a tenant's folder, because names of tenants do not start with a dot.
        self._temporary = root / ".tmp"
        self._durable: set[Path] = set()  # folders whose parents this store has synced
        with self._errors():
            if make:
                root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_root()
            self._remove_orphans()

    def check(self) -> None:
        """Checks that the directory exists and is readable."""
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
                "STORE_FULL", f"no space left in the store at {self._root}; free some space", field="store"
            )
        if error.errno in READ_ONLY:
            message = f"the store at {self._root} denies access: {error.strerror}"
            return FailedPrecondition("STORE_READ_ONLY", message, field="store")
        message = f"the store at {self._root} is unavailable: {error.strerror}"
        return Unavailable("STORE_UNREACHABLE", message, field="store", retry_delay_s=1)

    def _free_bytes(self) -> int | None:
        disk = os.statvfs(self._root)
        # Unknown if a network file system does not report its size. Also None for a read-only file system, because
        # a write to it must fail as read-only, not as full.
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
            # Buffered data is no longer needed; flushing it on a full disk would fail again.
            with contextlib.suppress(OSError):
                file.close()

    def _open_temporary(self) -> tuple[Path, BinaryIO]:
        while True:
            path = self._temporary / new_id()
            file = path.open("xb")
            fcntl.flock(file, fcntl.LOCK_EX)
            # Another store may have removed the file as an orphan before it was locked.
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
        sync_folder(folder.parent)
        self._durable.add(folder)

    def _touch(self, tenant: str, sha256: str, size_bytes: int) -> bool:
        # Verifying a stored blob costs less than writing and syncing it again. If it is damaged, `put` replaces it.
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
                    _touch_file(path)
                    # The writer of the blob may have renamed it into this folder but not synced the folder yet.
                    os.fsync(folder)
            except FileNotFoundError:  # deleted concurrently
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

    def _entries(self, tenant: str) -> Iterator[BlobInfo]:
        with self._errors():
            try:
                folders = sorted((self._root / tenant / "sha256").iterdir())
            except FileNotFoundError:
                self._check_root()
                return
            for folder in folders:
                for name in sorted(name for name in os.listdir(folder) if _BLOB_NAME.fullmatch(name)):
                    with contextlib.suppress(FileNotFoundError):  # deleted concurrently
                        found = (folder / name).stat()
                        yield BlobInfo(name, found.st_size, found.st_mtime_ns // 1000)

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
        # An unmounted file system must not look like an empty store.
        if not self._root.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the directory is missing", str(self._root))

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
    """Opens a folder and holds a shared or exclusive lock on it within the `with` block."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how)
        yield descriptor
    finally:
        os.close(descriptor)


def _touch_file(path: Path) -> None:
    with path.open("rb") as file:
        try:
            os.utime(file.fileno())
            os.fsync(file.fileno())
        except OSError as error:
            # The age does not matter on a read-only file system, because nothing can be deleted there.
            if error.errno not in READ_ONLY:
                raise
