"""The folder of a backup: one state file per service, blobs in the layout of a directory store, and a manifest.

The manifest lists the digests of all other files. It is written last and replaced atomically. So if the folder has a
manifest, that manifest describes the latest finished backup. Without a manifest, no backup has finished yet. The folder
may also contain files from an unfinished or an earlier backup; the next backup reuses or removes these files.
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
from common.errors import DataLoss, FailedPrecondition, InvalidArgument
from common.files import disk_error, replace_file, sync_folder
from common.names import check_id

_FORMAT = 1
_MANIFEST, _STATE, _BLOBS = "backup.json", "state", "blobs"


@dataclass(frozen=True)
class BackupContents:
    """The contents of a backup, as listed in its manifest.

    Attributes:
        create_us: Time at which the backup was taken, in microseconds since the Unix epoch (UTC).
        release: Release of DeepSeek Mesh that took the backup.
        states: Digest of each service's state file, by service.
        blobs: Size in bytes of each blob, by tenant and digest.
        lost: Digests, by tenant, of blobs that the states reference but the backup lacks, because they were missing or
            damaged.
    """

    create_us: int
    release: str
    states: Mapping[str, str]
    blobs: Mapping[str, Mapping[str, int]]
    lost: Mapping[str, list[str]]

    @property
    def num_blobs(self) -> int:
        """Number of blobs in the backup, over all tenants."""
        return sum(map(len, self.blobs.values()))

    @property
    def num_bytes(self) -> int:
        """Total size of the blobs in the backup, in bytes."""
        return sum(size for blobs in self.blobs.values() for size in blobs.values())


class BackupFolder:
    """A folder that contains or will contain a backup. Not thread-safe; `locked` keeps out other processes.

    Args:
        path: Path of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Creates the folder if it is missing, and prevents other backups to the folder until the `with` block ends.

        Raises:
            FailedPrecondition: NOT_A_BACKUP if the folder contains files that do not belong to a backup;
                BACKUP_RUNNING if another backup to the folder is running.
            MeshError: DISK_FULL, DISK_READ_ONLY or DISK_UNAVAILABLE if the disk fails, even inside the `with` block.
        """
        with self._disk_errors():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if others := {entry.name for entry in self.path.iterdir()} - {_MANIFEST, _STATE, _BLOBS}:
                message = (
                    f"{self.path} contains files that do not belong to a backup, e.g. {min(others)}; "
                    "choose an empty folder or the folder of an earlier backup"
                )
                raise FailedPrecondition("NOT_A_BACKUP", message, field="folder")
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    message = f"another backup to {self.path} is running; wait until it has finished"
                    raise FailedPrecondition("BACKUP_RUNNING", message, field="folder") from error
                (self.path / _STATE).mkdir(mode=0o700, exist_ok=True)
                yield
            finally:
                os.close(descriptor)

    def blobs(self) -> DirectoryStore:
        """Returns the store that contains the backup's blobs."""
        return DirectoryStore(self.path / _BLOBS)

    def state(self, sha256: str) -> Path:
        """Returns the path of the state file with the given digest."""
        return self.path / _STATE / sha256

    def place_state(self, file: Path) -> str:
        """Renames a state file in this folder to the digest of its content, and returns that digest."""
        with file.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
            os.fsync(opened.fileno())
        file.replace(self.state(sha256))
        return sha256

    def finish(self, contents: BackupContents) -> None:
        """Writes the manifest of a new backup, and then removes all files that the new manifest does not list."""
        document = {
            "format": _FORMAT,
            "create_us": contents.create_us,
            "release": contents.release,
            "states": dict(contents.states),
            "blobs": {tenant: dict(sorted(blobs.items())) for tenant, blobs in sorted(contents.blobs.items())},
            "lost": {tenant: sorted(lost) for tenant, lost in sorted(contents.lost.items())},
        }
        # The temporary file is not placed beside the manifest. It would remain if this process were killed, and
        # `locked` rejects a folder with an unknown file at its top level.
        temporary = self.path / _STATE / f"{_MANIFEST}.tmp"
        replace_file(temporary, json.dumps(document, indent=1).encode(), mode=0o644)
        temporary.replace(self.path / _MANIFEST)
        sync_folder(self.path)
        for path in (self.path / _STATE).iterdir():
            if path.name not in contents.states.values():
                path.unlink()
        store = self.blobs()
        for tenant in store.tenants():
            for sha256 in store.list(tenant):
                if sha256 not in contents.blobs.get(tenant, ()):
                    store.delete(tenant, sha256)

    def contents(self) -> BackupContents:
        """Reads the manifest.

        Raises:
            FailedPrecondition: BACKUP_NOT_FOUND if the folder contains no finished backup; BACKUP_TOO_NEW if a newer
                release wrote the manifest.
            DataLoss: BACKUP_DAMAGED if the manifest is damaged.
        """
        path = self.path / _MANIFEST
        try:
            with self._disk_errors():
                document = json.loads(path.read_bytes())
            if document["format"] != _FORMAT:
                message = f"{path} was written by a newer release; restore the backup with that release"
                raise FailedPrecondition("BACKUP_TOO_NEW", message, field="folder")
            contents = BackupContents(**{key: value for key, value in document.items() if key != "format"})
            for service, sha256 in contents.states.items():
                check_sha256(sha256)
                check_id(service, field="folder")
            for tenant, blobs in contents.blobs.items():
                check_id(tenant, field="folder")
                for sha256 in blobs:
                    check_sha256(sha256)
        except FileNotFoundError as error:
            message = f"{self.path} contains no finished backup; take one with `deepseek backup`"
            raise FailedPrecondition("BACKUP_NOT_FOUND", message, field="folder") from error
        except (ValueError, KeyError, TypeError, AttributeError, InvalidArgument) as error:
            raise DataLoss("BACKUP_DAMAGED", f"{path} is damaged: {error}; use another backup") from error
        return contents

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise disk_error(error, self.path) from error
