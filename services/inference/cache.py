"""Local copies of model files, by tenant and digest, kept as long as a model needs them.

A file is verified each time `hold` is called, and fetched again if it is damaged. A file is deleted when its last hold
is released. This is not a least-recently-used cache: it keeps exactly the files that a restart needs.
"""

import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from common.artifacts import ArtifactStore
from common.files import disk_error

_logger = logging.getLogger(__name__)


class FileCache:
    """Verified local files. Thread-safe; one process owns the directory.

    Args:
        store: Store that holds the blobs.
        directory: Directory that holds the copies; created if it does not exist.
    """

    def __init__(self, store: ArtifactStore, directory: Path) -> None:
        self._store = store
        self._directory = directory
        self._lock = threading.Lock()
        self._num_holders: Counter[Path] = Counter()

    def hold(self, tenant: str, sha256: str) -> Path:
        """Returns a verified local copy of a blob. Each call must be matched by one `release`.

        Raises:
            NotFound: BLOB_NOT_FOUND if the store has no such blob.
            DataLoss: BLOB_DAMAGED if the store's bytes do not match the digest.
            Unavailable: STORE_UNREACHABLE; DISK_UNAVAILABLE if the disk that holds the copies fails.
            ResourceExhausted: DISK_FULL.
            FailedPrecondition: DISK_READ_ONLY.
        """
        path = self._path(tenant, sha256)
        with self._lock:
            self._num_holders[path] += 1
        try:
            if not _is_whole(path, sha256):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._store.fetch(tenant, sha256, path)
        except OSError as error:
            self.release(tenant, sha256)
            raise disk_error(error, path, "copies of models") from error
        except BaseException:
            self.release(tenant, sha256)
            raise
        return path

    def release(self, tenant: str, sha256: str) -> None:
        """Releases one hold. The last release deletes the file; if that deletion fails, a restart deletes it."""
        path = self._path(tenant, sha256)
        with self._lock:
            self._num_holders[path] -= 1
            if not self._num_holders[path]:
                del self._num_holders[path]
                _delete(path)

    def keep_only(self, blobs: Collection[tuple[str, str]]) -> None:
        """Deletes files left by an earlier process, except those whose tenant and digest are in `blobs`."""
        kept = {self._path(tenant, sha256) for tenant, sha256 in blobs}
        for path in self._directory.glob("*/*"):
            if path not in kept:
                _delete(path)

    def _path(self, tenant: str, sha256: str) -> Path:
        return self._directory / tenant / f"{sha256}.onnx"


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _logger.warning("cannot delete %s: %s", path, error.strerror)


def _is_whole(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False
