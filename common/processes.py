"""Child processes that never outlive their parent, and import nothing from the current directory.

Three things make it certain: the kernel kills a child whose parent died (PR_SET_PDEATHSIG), which `spawn` arranges for
any program on Linux; a thread of a child that asks for it watches the ancestor that counts through a pidfd, which also
covers processes in between that start theirs in new sessions; and a child that finds the ancestor gone at its start
ends at once. The first is tied to the *thread* that started the child, and would kill a child when a thread of a living
parent ends, so all children are started by one thread that lasts as long as its process. Not a supervisor: nothing is
started again here.

Python puts the current directory, or the program's own, first on the import path: a `random.py` or `services/` in the
directory from which `deepseek up` is run would run with the rights of the mesh. So our programs start with a safe path
(`python -P`), and their child processes inherit it. PYTHONPATH still applies: its entries are deliberate.
"""

import contextlib
import ctypes
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import NoReturn

PARENT_PID = "DEEPSEEK_PARENT_PID"
"""Environment variable that tells a child whose end it follows."""
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.2
# Becomes the program that it is given. The setting survives exec, so it holds for programs that know nothing of us,
# and it is made in the child itself: code between fork and exec would have to run in a parent full of threads.
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


def python(module: str, *arguments: str) -> list[str]:
    """Returns the command line that runs a module as a program, with this interpreter and a safe path."""
    return [sys.executable, "-P", "-m", module, *arguments]


def safe_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns an environment in which Python processes and their descendants import nothing from the current directory.

    Args:
        environment: The variables to begin with; None means ours. PYTHONPATH keeps all entries except empty ones, which
            mean the current directory, and which `PYTHONPATH=$PYTHONPATH:/opt/mine` may create by accident.
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
    """Starts a program in a session of its own, with its output in a file and nothing of ours open in it.

    On Linux it is killed when this process ends, however that happens, unless it is detached or follows another.
    Elsewhere it has to call `die_with_parent`, as have programs that it starts in turn.

    Args:
        argv: The program and its arguments; no secrets, everyone on the machine sees them.
        env: Its environment, made safe by `safe_environment`; None means ours.
        log: File that its output is appended to; readable by the owner alone.
        parent_pid: The process whose end it follows; None means this one. It has to call `die_with_parent` if this is
            another one.
        detach: It shall outlive us: no parent is told.

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


def die_with_parent() -> None:
    """Makes this process end with the one that `spawn` named, and with its own parent; does nothing if none was named.

    To be called first thing, before anything slow is imported.
    """
    if named := os.environ.get(PARENT_PID):
        for pid in {int(named), os.getppid()}:
            die_with(pid)


def die_with(pid: int) -> None:
    """Makes this process end, by SIGKILL, as soon as another ends; at once if it is gone already.

    The group that this process leads, if it leads one, ends with it.
    """
    # Only of a parent that says so itself is it known that it started us from a thread that lasts.
    if sys.platform == "linux" and os.getppid() == pid and os.environ.get(PARENT_PID) == str(pid):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        descriptor = os.pidfd_open(pid) if sys.platform == "linux" else None
    except ProcessLookupError:
        _end()
    threading.Thread(target=_watch, args=(pid, descriptor), name=f"die-with-{pid}", daemon=True).start()


def terminate(process: "subprocess.Popen[bytes]", *, grace_s: float) -> int:
    """Ends a process that `spawn` started, and all of its session's group: SIGTERM, then SIGKILL after the grace time.

    Does nothing if its end has been seen already: its number may be another's by now.

    Returns:
        Its exit status.
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
    """The queue of the thread that starts the children of a process; a fork has none of its parent's threads."""
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


def _signal_group(process: "subprocess.Popen[bytes]", number: int) -> None:
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
