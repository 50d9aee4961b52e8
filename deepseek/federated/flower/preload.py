"""Starts Flower's `flwr-clientapp` from a process that has imported it already: `python -m ...preload SOCKET`.

Flower starts a process per message, whose imports take about three seconds of CPU time. Flower finds the program on its
PATH, so `install` writes a script of the same name there. The script passes its arguments to this process, which forks
and runs Flower's own entry point; if this process is not running, the script runs Flower's program instead. Flower
itself is not patched. The process has one thread, because a fork is safe only then, and ends with its parent.
"""

import gc
import json
import os
import signal
import socket
import sys
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path

from common import unix_sockets
from common.files import replace_file
from common.processes import python

PROGRAM = "flwr-clientapp"
_MAX_REQUEST_BYTES = 1 << 16
# It connects as `unix_sockets.connect` does, because importing that would take longer than all the rest of the script.
_SCRIPT = """\
#!{python} -IS
import json, os, socket, sys
try:
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(10)
        folder = os.open({folder!r}, os.O_RDONLY)
        server.connect("{descriptors}/%d/%s" % (folder, {name!r}))
        server.sendall(json.dumps(sys.argv[1:]).encode())
        server.shutdown(socket.SHUT_WR)
        started = server.recv(1)
except OSError:
    started = b""
if not started:
    os.execv({program!r}, [{program!r}, *sys.argv[1:]])
"""


def install(folder: Path, socket_path: Path) -> None:
    """Writes the script into a folder, which must come first on Flower's PATH.

    Args:
        folder: Folder for the script; created if missing.
        socket_path: Socket of the process that runs `main`.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    program = str(Path(sysconfig.get_path("scripts")) / PROGRAM)
    interpreter, *_ = python(__name__)
    script = _SCRIPT.format(
        python=interpreter,
        folder=str(socket_path.parent.absolute()),
        descriptors=unix_sockets.DESCRIPTORS,
        name=socket_path.name,
        program=program,
    )
    replace_file(folder / PROGRAM, script.encode(), mode=0o700, durable=False)


def main() -> None:
    """Serves requests until the process is killed."""
    path = Path(sys.argv[1])
    (entry_point,) = entry_points(group="console_scripts", name=PROGRAM)
    run = entry_point.load()
    import deepseek.federated.flower.client_app  # noqa: F401  # so that the forks need not import it

    assert len(os.listdir("/proc/self/task")) == 1, "a fork has only the thread that made it"
    gc.collect()
    gc.freeze()  # otherwise the first collection in a fork copies the pages of all objects
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps the forks
    with socket.socket(socket.AF_UNIX) as listener:
        unix_sockets.bind(listener, path)
        listener.listen(16)
        while True:
            connection, _ = listener.accept()
            with connection:
                arguments = _arguments(connection)
                if arguments is None:
                    continue
                if os.fork() == 0:
                    listener.close()
                    connection.sendall(b"1")
                    connection.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    sys.argv = [PROGRAM, *arguments]
                    sys.exit(run())


def _arguments(connection: socket.socket) -> list[str] | None:
    """Returns the arguments of a request; None if it is incomplete."""
    connection.settimeout(10)
    content = b""
    try:
        while part := connection.recv(_MAX_REQUEST_BYTES):
            content += part
        connection.settimeout(None)
        return [str(argument) for argument in json.loads(content)]
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    main()
