"""A mesh's home directory: its lock, its logs, and the processes that run in it."""

import contextlib
import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import FailedPrecondition, MeshError
from deepseek.client import MeshFile, ServiceAddress
from deepseek.services import SERVICES

_LOG_TAIL_LINES = 20


@dataclass(frozen=True)
class Access:
    """The credentials of a mesh that uses TLS.

    Attributes:
        folder: Folder created by `deepseek certs init`, which contains the certificates of the services and clients.
        token_file: File with the user's token, which clients send with every call. The file need not exist yet.
    """

    folder: Path
    token_file: Path


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Creates the directories of a home, and holds the home's lock until the `with` block ends.

    Any other process that wants to start or stop services in this home waits for the lock.

    Raises:
        FailedPrecondition: HOME_NOT_WRITABLE.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in ("logs", "run"):
            (home / folder).mkdir(exist_ok=True)
        lock = (home / "run" / "lock").open("w")
    except OSError as error:
        message = f"{home} cannot be used: {error.strerror}; set DEEPSEEK_HOME to another directory"
        raise FailedPrecondition("HOME_NOT_WRITABLE", message, field="home") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def mesh_file(home: Path) -> Path:
    """Returns the path of the mesh file."""
    return home / "mesh.json"


def address_file(home: Path, name: str) -> Path:
    """Returns the file to which a service writes its address."""
    return home / "run" / f"{name}.json"


def log_file(home: Path, name: str) -> Path:
    """Returns the log file of a service."""
    return home / "logs" / f"{name}.log"


def running(home: Path) -> dict[str, ServiceAddress]:
    """Returns the services whose processes are alive, among those in the home's mesh file and address files."""
    found: dict[str, ServiceAddress] = {}
    with contextlib.suppress(MeshError):
        found.update(MeshFile.read(mesh_file(home)).services)
    for name in SERVICES:
        with contextlib.suppress(OSError, ValueError, KeyError):
            written = json.loads(address_file(home, name).read_text(encoding="utf-8"))
            if is_service(written["pid"], name, home):
                found[name] = ServiceAddress(written["address"], written["pid"])
    return {name: one for name, one in found.items() if is_service(one.pid, name, home)}


def access_of(home: Path) -> Access | None:
    """Returns the credentials that a home's mesh file names; None if its services do not use TLS."""
    with contextlib.suppress(MeshError):
        file = MeshFile.read(mesh_file(home))
        return Access(Path(file.identity).parent, Path(file.token_file)) if file.identity else None
    return None


def listens(home: Path, name: str, pid: int) -> bool:
    """Returns whether the address file of a service was written by the given process.

    A health check is not sufficient, because a process of another mesh may be listening on the service's port.
    """
    try:
        written = json.loads(address_file(home, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(written["pid"] == pid)


def is_service(pid: int, name: str, home: Path) -> bool:
    """Returns whether a process is alive and is the named service of a home.

    The process id of a service that has exited may have been reused by an unrelated process.
    """
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    if state == "Z" or f"services.{name}".encode() not in command or b"--home" not in command:
        return False
    return Path(os.fsdecode(command[command.index(b"--home") + 1])).resolve() == home.resolve()


def failure(home: Path, name: str, exit_status: int) -> MeshError:
    """Returns an error that says why a service exited.

    The error is the last one in the service's log. If the log contains none, the error states the exit status.
    """
    log = log_file(home, name)
    # The log of a service that was stopped or killed contains no reason.
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if exit_status > 0 and log.exists() else []
    for line in reversed(lines[-_LOG_TAIL_LINES:]):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "reason" in entry:
            return FailedPrecondition(entry["reason"], f"{name}: {entry['message']}", field=entry.get("field", ""))
    return FailedPrecondition("SERVICE_ENDED", f"{name} {how_it_ended(exit_status)}; see {log}")


def how_it_ended(exit_status: int) -> str:
    """Returns a description of how a process ended."""
    if exit_status >= 0:
        return f"ended with status {exit_status}"
    return f"was ended by {signal.Signals(-exit_status).name}"


def send_signal(pid: int, number: int) -> None:
    """Sends a signal to a process. Does nothing if the process has already exited."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
