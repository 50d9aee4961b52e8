"""Unix sockets in folders of any depth.

The address of a Unix socket has about 100 bytes, which is less than many paths. On Linux a socket can also be named by
a descriptor of its folder, so a socket can always be in the folder that its program owns, and a process that is killed
leaves nothing in the temporary directory. Other systems have no such names; there, a long path is refused.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from common.errors import FailedPrecondition

DESCRIPTORS = Path("/proc/self/fd")
"""Folder in which Linux shows the open files of a process."""

_MAX_BYTES = 100  # sun_path has 104 bytes on macOS and 108 on Linux, with a NUL


@contextlib.contextmanager
def short_name(path: Path) -> Iterator[str]:
    """Yields a short name of a socket. Only this process can use it, and only within the `with` block.

    Args:
        path: The socket. Its folder must exist.

    Raises:
        FailedPrecondition: SOCKET_PATH_TOO_LONG, on systems other than Linux.
        OSError: The folder cannot be opened.
    """
    if not DESCRIPTORS.is_dir():
        if (length := len(os.fsencode(path))) > _MAX_BYTES:
            message = f"the path {path} has {length} bytes; a socket may have {_MAX_BYTES}: choose a shorter folder"
            raise FailedPrecondition("SOCKET_PATH_TOO_LONG", message, field="path")
        yield str(path)
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield str(DESCRIPTORS / str(descriptor) / path.name)
    finally:
        os.close(descriptor)


def bind(listener: socket.socket, path: Path) -> None:
    """Binds a socket that only its owner can connect to. Replaces the socket of a process that was killed.

    The caller removes the file when it stops listening.

    Raises:
        FailedPrecondition: SOCKET_PATH_TOO_LONG.
        OSError: The socket cannot be created.
    """
    path.unlink(missing_ok=True)
    with short_name(path) as name:
        listener.bind(name)
    path.chmod(0o600)  # nobody can connect before the caller listens


def connect(connection: socket.socket, path: Path) -> None:
    """Connects to a socket.

    Raises:
        FailedPrecondition: SOCKET_PATH_TOO_LONG.
        OSError: Nobody listens, or the socket cannot be opened.
    """
    with short_name(path) as name:
        connection.connect(name)
