"""An artifact store in a directory: the embedded default.

A blob is written to `<root>/.tmp` and synced, then renamed to its place, whose folder is synced: a rename is atomic, so
nobody sees half a blob. The folders above are synced once a process: that one is there does not prove that whoever made
it has come to syncing it. A writer holds a lock on its temporary file for as long as it lives; opening a store removes
the temporary files that nobody holds, which writers left that were killed. Needs a file system with POSIX rename and
`flock` semantics.
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
from common.artifacts.store import CHUNK_BYTES, FULL, READ_ONLY, ArtifactStore, blob_key
from common.errors import DataLoss, FailedPrecondition, MeshError, NotFound, ResourceExhausted, Unavailable
from common.names import new_id

_BLOB_NAME = re.compile(r"[0-9a-f]{64}")


class DirectoryStore(ArtifactStore):
    """Blobs as files below a directory.

    Args:
        root: The directory; made, for this user only, if it is missing.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        # No tenant's name starts with a dot.
        self._temporary = root / ".tmp"
        self._durable: set[Path] = set()  # folders whose names this store has synced into the folders above
        with self._errors():
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        os.replace(file.name, path)
        _sync_folder(path.parent)

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
            if not super()._holds(tenant, sha256, size_bytes):
                return False
            for _ in self._verified(tenant, sha256):
                pass
        except (NotFound, DataLoss):
            return False
        # Another writer may have renamed it, or made its folder, and not yet synced that.
        with self._errors():
            folder = (self._root / blob_key(tenant, sha256)).parent
            self._make_folder(folder)
            _sync_folder(folder)
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

    def _list(self, tenant: str) -> Iterator[str]:
        with self._errors():
            try:
                folders = sorted((self._root / tenant / "sha256").iterdir())
            except FileNotFoundError:
                self._check_root()
                return
            for folder in folders:
                yield from sorted(name for name in os.listdir(folder) if _BLOB_NAME.fullmatch(name))

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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
