"""Kills one process of a federated run, and reports whether there was one to kill."""

import os
import signal
import time
from pathlib import Path

from deepseek.federated.flower.supernode import Node
from tests.harness.subprocesses import ServiceSubprocess

TARGETS = ("coordinator", "superlink", "serverapp", "supernode")
_PROGRAMS = {"superlink": "flower-superlink", "serverapp": "flwr-serverapp"}
_SEARCH_S = 10.0
_POLL_S = 0.05


def kill_process(target: str, coordinator: ServiceSubprocess, node: Node) -> tuple[int, float]:
    """Kills a process with `kill -9`, and starts it again unless something else does.

    Args:
        target: One of TARGETS.
        coordinator: The coordinator.
        node: The node that is killed if `target` is `supernode`.

    Returns:
        Number of processes that were killed, and when, in seconds since 1970.
    """
    if target == "coordinator":
        coordinator.kill()
        killed_s = time.time()
        coordinator.start()
        return 1, killed_s
    if target == "supernode":
        if node.poll() is not None:
            return 0, time.time()
        os.kill(node.pid, signal.SIGKILL)
        node.wait()
        killed_s = time.time()
        node.restart()
        return 1, killed_s
    return kill_program(coordinator.pid, _PROGRAMS[target], search_s=_SEARCH_S), time.time()


def kill_program(ancestor: int, program: str, *, search_s: float) -> int:
    """Kills the descendants of a process that run a program, and returns their number.

    Args:
        ancestor: Id of the process.
        program: Part of the command line.
        search_s: Time in seconds to wait for such a process, e.g. because it is just being started.
    """
    deadline = time.monotonic() + search_s
    while True:
        found = [pid for pid in _descendants(ancestor) if program in _command_line(pid)]
        num_killed = sum(_kill(pid) for pid in found)
        if num_killed or time.monotonic() >= deadline:
            return num_killed
        time.sleep(_POLL_S)


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _descendants(pid: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # the process has ended
    found, last = [], [pid]
    while last:
        last = [child for child, parent in parents.items() if parent in last]
        found += last
    return found


def _command_line(pid: int) -> str:
    """Returns the command line; empty if the process has ended."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_text()
    except OSError:
        return ""
