"""Looking at and waiting for the processes of a mesh under test."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path


def wait_until(condition: Callable[[], bool], what: str, *, timeout_s: float = 60) -> None:
    """Polls until a condition holds.

    Raises:
        AssertionError: It does not hold in time; the message says what was waited for.
    """
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"gave up after {timeout_s} s waiting for: {what}"
        pause.wait(0.05)


def processes_of(home: Path) -> dict[int, str]:
    """Command lines by process id of everything alive that was started for a mesh's home directory."""
    mark = f"DEEPSEEK_HOME={home}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # ended while we looked, or not ours to see
    return {pid: command for pid, command in found.items() if command}


def workers(home: Path, *, agents: bool = False) -> list[int]:
    """Processes that train for this mesh: the workers, or the agents that started them."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().decode()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        program = "deepseek.training.agent" if agents else "deepseek.training.worker"
        if str(home) in command and program in command and state != "Z":
            found.append(int(entry.name))
    return found
