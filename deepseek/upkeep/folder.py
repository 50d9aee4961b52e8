"""The folder of a backup: one state file a service, blobs as a directory store keeps them, and a manifest.

The manifest names everything else by digest, is written last and replaced in one step. So a folder holds the backup
that was finished last, whatever became of one begun since, or none. Files that the manifest does not name are left over
from such a one, or from the backup before; the next backup uses or removes them.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.artifacts import check_sha256
from common.artifacts.directory import DirectoryStore
from common.artifacts.store import disk_error
from common.errors import DataLoss, FailedPrecondition, InvalidArgument
from common.names import check_id

_FORMAT = 1
_MANIFEST, _STATE, _BLOBS = "backup.json", "state", "blobs"


@dataclass(frozen=True)
class Contents:
    """What a backup consists of.

    Attributes:
        create_us: When it was taken, UTC microseconds.
        release: The release that took it.
        states: Digest of each service's state file.
        blobs: Size in bytes of each blob, by tenant and digest.
        lost: Digests by tenant of what the state refers to and the store did not have whole.
    """

    create_us: int
    release: str
    states: Mapping[str, str]
    blobs: Mapping[str, Mapping[str, int]]
    lost: Mapping[str, list[str]]

    @property
    def num_blobs(self) -> int:
        """How many blobs there are."""
        return sum(map(len, self.blobs.values()))

    @property
    def num_bytes(self) -> int:
        """How many bytes they have together."""
        return sum(size for blobs in self.blobs.values() for size in blobs.values())


class BackupFolder:
    """A folder with a backup, or for one. Not thread-safe; processes exclude each other by `alone`.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Makes the folder if it is missing, and keeps other backups out of it.

        Raises:
            FailedPrecondition: NOT_A_BACKUP if there is something else in it; BACKUP_RUNNING.
            MeshError: DISK_FULL, DISK_READ_ONLY or DISK_UNAVAILABLE, also for what is done meanwhile.
        """
        with self._disk():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if others := {entry.name for entry in self.path.iterdir()} - {_MANIFEST, _STATE, _BLOBS}:
                message = f"{self.path} has other things in it ({min(others)}); choose an empty folder, or a backup's"
                raise FailedPrecondition("NOT_A_BACKUP", message, field="folder")
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    message = f"another backup into {self.path} is under way; wait for it"
                    raise FailedPrecondition("BACKUP_RUNNING", message, field="folder") from error
                (self.path / _STATE).mkdir(mode=0o700, exist_ok=True)
                yield
            finally:
                os.close(descriptor)

    def blobs(self) -> DirectoryStore:
        """The blobs."""
        return DirectoryStore(self.path / _BLOBS)

    def state(self, sha256: str) -> Path:
        """Where the state file with this digest lies."""
        return self.path / _STATE / sha256

    def keep(self, file: Path) -> str:
        """Gives a state file, written in this folder, its place; returns its digest."""
        with file.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
            os.fsync(opened.fileno())
        file.replace(self.state(sha256))
        return sha256

    def finish(self, contents: Contents) -> None:
        """Makes this the folder's backup, and removes what is not of it."""
        document = {
            "format": _FORMAT,
            "create_us": contents.create_us,
            "release": contents.release,
            "states": dict(contents.states),
            "blobs": {tenant: dict(sorted(blobs.items())) for tenant, blobs in sorted(contents.blobs.items())},
            "lost": {tenant: sorted(lost) for tenant, lost in sorted(contents.lost.items())},
        }
        temporary = self.path / _STATE / f"{_MANIFEST}.tmp"
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        _sync(self.path / _STATE)
        temporary.replace(self.path / _MANIFEST)
        _sync(self.path)
        for path in (self.path / _STATE).iterdir():
            if path.name not in contents.states.values():
                path.unlink()
        store = self.blobs()
        for tenant in store.tenants():
            for sha256 in store.list(tenant):
                if sha256 not in contents.blobs.get(tenant, ()):
                    store.delete(tenant, sha256)

    def contents(self) -> Contents:
        """What the manifest says.

        Raises:
            FailedPrecondition: BACKUP_NOT_FOUND if no backup was finished here; BACKUP_TOO_NEW.
            DataLoss: BACKUP_DAMAGED.
        """
        path = self.path / _MANIFEST
        try:
            with self._disk():
                document = json.loads(path.read_bytes())
            if document["format"] != _FORMAT:
                message = f"{path} is of a newer release; restore with that one"
                raise FailedPrecondition("BACKUP_TOO_NEW", message, field="folder")
            contents = Contents(**{key: value for key, value in document.items() if key != "format"})
            for service, sha256 in contents.states.items():
                check_sha256(sha256)
                check_id(service, field="folder")
            for tenant, blobs in contents.blobs.items():
                check_id(tenant, field="folder")
                for sha256 in blobs:
                    check_sha256(sha256)
        except FileNotFoundError as error:
            message = f"no backup was finished in {self.path}; take one with `deepseek backup`"
            raise FailedPrecondition("BACKUP_NOT_FOUND", message, field="folder") from error
        except (ValueError, KeyError, TypeError, AttributeError, InvalidArgument) as error:
            raise DataLoss("BACKUP_DAMAGED", f"{path} is damaged: {error}; use another backup") from error
        return contents

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise disk_error(error, self.path) from error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
