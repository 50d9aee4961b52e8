"""Child processes that never outlive their parent and import nothing from the current directory.

On Linux, the kernel kills a child whose parent has died (PR_SET_PDEATHSIG). It does so as soon as the *thread* that
started the child ends, so one permanent thread starts all children. A child may also watch an earlier ancestor through
a pidfd: it then ends with the ancestor even if the processes in between survive. Programs start with a safe import path
(`python -P`), so that no `random.py` in the current directory runs with the mesh's privileges; PYTHONPATH still
applies. This module is not a supervisor: it restarts nothing.
"""

import contextlib
import ctypes
import os
import queue
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import NoReturn, Protocol

PARENT_PID = "DEEPSEEK_PARENT_PID"
"""Environment variable with the pid of the process that the child must not outlive."""
MAX_LOG_BYTES = 32 << 20
"""Size of a log at which `bound_log` begins a new one."""
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.2
_LOG_INTERVAL_S = 60.0
# Sets PR_SET_PDEATHSIG and executes the given program. The setting survives exec, so this works for any program. The
# child sets it itself, because it is unsafe to run code between fork and exec if the parent has threads.
_LAUNCHER = f"""
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{{sys.argv[2]}}: {{error.strerror}}")
"""


class Process(Protocol):
    """A child process, e.g. a `subprocess.Popen`."""

    pid: int
    returncode: int | None

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the exit status."""

    def poll(self) -> int | None:
        """Returns the exit status; None while the process runs."""


def python(module: str, *arguments: str) -> list[str]:
    """Returns the command line that runs a module with this interpreter and a safe import path."""
    return [sys.executable, "-P", "-m", module, *arguments]


def safe_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns an environment in which Python processes and their descendants import nothing from the current directory.

    Args:
        environment: Initial variables; None means those of this process. Empty entries of PYTHONPATH are removed,
            because they mean the current directory. `PYTHONPATH=$PYTHONPATH:/opt/mine` creates such an entry by
            accident if PYTHONPATH was not set before.
    """
    safe = {**(os.environ if environment is None else environment), "PYTHONSAFEPATH": "1"}
    if "PYTHONPATH" in safe:
        safe["PYTHONPATH"] = os.pathsep.join(filter(None, safe["PYTHONPATH"].split(os.pathsep)))
    return safe


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None,
    log: Path,
    parent_pid: int | None = None,
    detach: bool = False,
) -> "subprocess.Popen[bytes]":
    """Starts a program in a new session. The program writes its output to a file and inherits no other open files.

    On Linux, the program is killed when this process ends for any reason, unless `detach` is set or `parent_pid` names
    another process. On other systems, the program must call `die_with_parent` itself, and so must all programs that it
    starts in turn.

    Args:
        argv: Program and arguments. They must not contain secrets, because every user of the machine can read them.
        env: Environment, to which `safe_environment` is applied; None means the environment of this process.
        log: File to which the output is appended, see `bound_log`. Only its owner can read it.
        parent_pid: Id of the process that the program must not outlive; None means this process. If it is another
            process, the program must call `die_with_parent`.
        detach: Whether the program may outlive this process.

    Returns:
        The running process.
    """
    environment = safe_environment(env)
    environment.pop(PARENT_PID, None)
    command = list(argv)
    if not detach:
        parent = parent_pid or os.getpid()
        environment[PARENT_PID] = str(parent)
        if sys.platform == "linux" and parent == os.getpid():
            command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(parent), *argv]
    bound_log(log)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:

        def start() -> "subprocess.Popen[bytes]":
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
            )

        started: Future[subprocess.Popen[bytes]] = Future()
        _starter(os.getpid()).put((start, started))
        return started.result()
    finally:
        os.close(descriptor)


def bound_log(log: Path) -> bool:
    """Moves the content of a log that has grown beyond `MAX_LOG_BYTES` to a file with the suffix `.1`.

    Processes that write to the log, which `spawn` opened for appending, continue at its new start. Lines that they
    write during the move may be lost.

    Returns:
        Whether the log was moved.
    """
    if not log.exists() or log.stat().st_size <= MAX_LOG_BYTES:
        return False
    descriptor = os.open(log.with_name(f"{log.name}.1"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with log.open("rb") as content, os.fdopen(descriptor, "wb") as moved:
        shutil.copyfileobj(content, moved)
    os.truncate(log, 0)
    return True


@contextlib.contextmanager
def bounding_log(log: Path) -> Iterator[None]:
    """Calls `bound_log` once a minute during a `with` block."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(_LOG_INTERVAL_S):
            with contextlib.suppress(OSError):  # a full disk
                bound_log(log)

    thread = threading.Thread(target=run, name="bounding-log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def die_with_parent() -> None:
    """Makes this process end as soon as its parent, or the process that `spawn` received as `parent_pid`, ends.

    Does nothing in a detached process. Call it first, before slow imports.
    """
    if named := os.environ.get(PARENT_PID):
        for pid in {int(named), os.getppid()}:
            die_with(pid)


def die_with(pid: int) -> None:
    """Makes this process kill itself as soon as another process ends, or at once if that process no longer exists.

    If this process leads a process group, the whole group ends with it.
    """
    # Used only for children of `spawn`: other parents may start children from a thread that ends before the parent.
    if sys.platform == "linux" and os.getppid() == pid and os.environ.get(PARENT_PID) == str(pid):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        descriptor = os.pidfd_open(pid) if sys.platform == "linux" else None
    except ProcessLookupError:
        _end()
    threading.Thread(target=_watch, args=(pid, descriptor), name=f"die-with-{pid}", daemon=True).start()


def terminate(process: Process, *, grace_s: float) -> int:
    """Ends a process that `spawn` started, and its process group: SIGTERM first, SIGKILL after the grace period.

    Sends no signal if the process has been reaped, because its pid may belong to another process by now.

    Returns:
        Exit status of the process.
    """
    if process.returncode is None:
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
        _signal_group(process, signal.SIGKILL)
    return process.wait()


_Starts = queue.SimpleQueue[tuple[Callable[[], "subprocess.Popen[bytes]"], "Future[subprocess.Popen[bytes]]"]]


@cache
def _starter(pid: int) -> _Starts:
    """Returns the queue of the thread that starts children. A fork needs its own, because it inherits no threads."""
    starts: _Starts = queue.SimpleQueue()

    def run() -> None:
        while True:
            start, started = starts.get()
            try:
                started.set_result(start())
            except (OSError, ValueError) as error:
                started.set_exception(error)

    threading.Thread(target=run, name="children", daemon=True).start()
    return starts


def _signal_group(process: Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _watch(pid: int, descriptor: int | None) -> None:
    if descriptor is not None:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while not poll.poll():
            pass
    else:
        while _is_alive(pid):
            time.sleep(_POLL_S)
    _end()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _end() -> NoReturn:
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL cannot be survived")
