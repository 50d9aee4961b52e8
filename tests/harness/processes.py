"""Finds the processes of a mesh under test, and waits for conditions."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from common.processes import python


def wait_until(condition: Callable[[], bool], what: str, *, timeout_s: float = 180) -> None:
    """Polls until a condition holds.

    Raises:
        AssertionError: The condition did not hold in time; the message names it.
    """
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"gave up after {timeout_s} s waiting for: {what}"
        pause.wait(0.05)


def processes_of(home: Path) -> dict[int, str]:
    """Returns the command lines of the live processes of a mesh, by process id."""
    mark = f"DEEPSEEK_HOME={home}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # has ended meanwhile, or belongs to another user
    return {pid: command for pid, command in found.items() if command}


def workers(home: Path, *, agents: bool = False) -> list[int]:
    """Returns the ids of the processes that train for this mesh: the workers, or the agents that started them."""
    program = "deepseek.trainjob.agent" if agents else "deepseek.trainjob.train_main"
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().decode().split("\0")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        # Not the launcher, which names the program after its own code: while it executes the program, it has no
        # command line, and a worker that was found would be gone for a moment.
        if command[1:4] == python(program)[1:] and str(home) in " ".join(command) and state != "Z":
            found.append(int(entry.name))
    return found
