"""Writes files atomically, and translates disk errors into MeshErrors.

Content is written to a new temporary file in the same folder. This file is then renamed, so a reader, or a process that
starts after a crash, finds either the old file or the complete new one. A process that is killed may leave a temporary
file behind. To read text that people edit, use `common.text_files`.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from common.errors import FailedPrecondition, MeshError, ResourceExhausted, Unavailable

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers for a full disk, an exhausted quota, and a file that would exceed the process's size limit."""

READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
"""Error numbers for missing write permission."""


def replace_file(path: Path, content: bytes | Iterable[bytes], *, mode: int = 0o600, durable: bool = True) -> None:
    """Writes or replaces a file atomically. If several processes write the file concurrently, the last writer wins.

    Args:
        path: The file. Its folder must exist. A symbolic link is replaced by the file.
        content: The content, or an iterable of its chunks. If the iterable raises, the old file remains in place.
        mode: Permissions, subject to the umask. They apply from the first byte, so 0o600 is safe for secrets.
        durable: Whether the new content survives a power cut once this function has returned.

    Raises:
        OSError: The file cannot be written; the old file is unchanged.
    """
    with replacing(path, mode=mode, durable=durable) as file:
        file.writelines([content] if isinstance(content, bytes) else content)


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o600, durable: bool = True) -> Iterator[BinaryIO]:
    """Opens a new file that replaces `path` atomically at the end of the `with` block, unless the block raises.

    Args:
        path: The file, as for `replace_file`.
        mode: Permissions, as for `replace_file`.
        durable: Whether the new content survives a power cut after the end of the block.

    Raises:
        OSError: The file cannot be written; the old file is unchanged.
    """
    with _temporary(path, mode=mode) as (temporary, file):
        yield file
        _finish(file, durable=durable)
        temporary.replace(path)
    if durable:
        sync_folder(path.parent)


def create_file(path: Path, content: bytes, *, mode: int = 0o600) -> bool:
    """Writes a file atomically and durably, unless it exists. Of several concurrent writers, the first wins.

    Args:
        path: The file. Its folder must exist.
        content: The content.
        mode: Permissions, as for `replace_file`.

    Returns:
        Whether this call created the file.

    Raises:
        OSError: The file cannot be written.
    """
    with _temporary(path, mode=mode) as (temporary, file):
        file.write(content)
        _finish(file, durable=True)
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
    sync_folder(path.parent)
    return True


def sync_folder(folder: Path) -> None:
    """Makes the entries of a folder durable, after files were created, renamed or deleted in it.

    Raises:
        OSError: The folder cannot be synced.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def disk_error(error: OSError, path: Path, what: str = "") -> MeshError:
    """Returns the MeshError for a local file that cannot be read or written.

    Args:
        error: Error reported by the operating system.
        path: The file. Its path is removed from messages to remote callers.
        what: Kind of content, e.g. "the audit log". Required if the message is sent to remote callers.

    Returns:
        ResourceExhausted (DISK_FULL), FailedPrecondition (DISK_READ_ONLY) or Unavailable (DISK_UNAVAILABLE).
    """
    where = f"{what} in {path}" if what else str(path)
    if error.errno in FULL:
        return ResourceExhausted("DISK_FULL", f"no space left for {where}; free some space and try again", field="path")
    message = f"{where} cannot be used: {error.strerror}"
    if error.errno in READ_ONLY:
        return FailedPrecondition("DISK_READ_ONLY", message, field="path")
    return Unavailable("DISK_UNAVAILABLE", message, field="path", retry_delay_s=1)


@contextlib.contextmanager
def _temporary(path: Path, *, mode: int) -> Iterator[tuple[Path, BinaryIO]]:
    """Yields a new, open file in the folder of `path`; removes it at the end unless it was renamed."""
    # The name is unpredictable and opened exclusively, so an attacker cannot plant a file or a link there first.
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with open(descriptor, "wb") as file:
            yield temporary, file
    finally:
        with contextlib.suppress(OSError):  # already renamed, or the disk has just failed
            temporary.unlink()


def _finish(file: BinaryIO, *, durable: bool) -> None:
    """Hands the content of a file to the operating system, and to the disk if it must be durable."""
    file.flush()
    if durable:
        os.fsync(file.fileno())
