"""Starts Python services together, as forks of one process (`common.fork_server`), so that they start faster.

The forking process exits as soon as it has created the forks. This process is a subreaper (prctl(2)) at that time, so
the forks become its children, and it can read their exit statuses. A fork runs its program only after the caller has
recorded the fork. If this process is killed before that, the fork exits.
"""

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from common.errors import Internal
from common.processes import PARENT_PID, python, safe_environment

_PR_SET_CHILD_SUBREAPER = 36
_POLL_INTERVAL_S = 0.05
_TIMEOUT_S = 120
_PADDING_BYTES = 4096  # a command line that is longer is executed instead of shown


class ForkedProcess:
    """A child process that this process did not start itself. Not thread-safe.

    Attributes:
        pid: Process id.
        returncode: Exit status in the format of `subprocess.Popen`; None until it has been read.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Returns the exit status; None while the process runs."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # this process ignores SIGCHLD, so the status is lost
                self.returncode = 0
            else:
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the exit status.

        Raises:
            subprocess.TimeoutExpired: The process still runs after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout if timeout is not None else None
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(_POLL_INTERVAL_S)
        return status


def can_fork() -> bool:
    """Returns whether this system supports `ForkServer`."""
    return sys.platform == "linux"


class ForkServer:
    """The process that creates the forks. It imports their shared modules while this process does other work.

    Use it as a context manager, and only once. Not thread-safe.

    Args:
        fresh: Whether the programs will migrate databases, so that Alembic is imported before the fork.
        detach: Whether the programs outlive this process; if not, they must call `common.processes.die_with`.
    """

    def __init__(self, *, fresh: bool, detach: bool) -> None:
        environment = safe_environment()
        environment.pop(PARENT_PID, None)
        if not detach:
            environment[PARENT_PID] = str(os.getpid())
        self._resources = contextlib.ExitStack()
        self._errors = self._resources.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        self._process = self._resources.enter_context(
            subprocess.Popen(
                python("common.fork_server", "fresh" if fresh else "migrated", "x" * _PADDING_BYTES),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches only this process, which then closes the pipe
            )
        )
        self._resources.callback(self._process.kill)  # it has exited if it has forked

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._resources.close()

    def start(
        self, programs: Sequence[tuple[Sequence[str], Path]], *, record: Callable[[list[ForkedProcess]], None]
    ) -> None:
        """Starts programs as forks of the server. Each fork gets its own session.

        Args:
            programs: Command lines from `common.processes.python`, each with the file to which its output is appended.
            record: Function that receives the processes, in the order of `programs`, before the programs run. If the
                function raises, the processes exit.

        Raises:
            Internal: START_FAILED, with the last line of the server's error output.
            OSError: A log file cannot be opened.
        """
        for _, log in programs:
            os.close(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
        try:
            record([ForkedProcess(pid) for pid in self._pids(programs)])
            assert self._process.stdin is not None
            self._process.stdin.write(b"g" * len(programs))
            self._process.stdin.flush()
        finally:
            prctl(_PR_SET_CHILD_SUBREAPER, 0)

    def _pids(self, programs: Sequence[tuple[Sequence[str], Path]]) -> list[int]:
        """Sends the programs, waits for the server to exit, and returns the process ids of the forks."""
        server = self._process
        assert server.stdin is not None
        assert server.stdout is not None
        request = [{"argv": list(argv), "log": str(log)} for argv, log in programs]
        timer = threading.Timer(_TIMEOUT_S, server.kill)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # the server has exited and has printed the reason
                server.stdin.write(json.dumps(request).encode() + b"\n")
                server.stdin.flush()
            output = server.stdout.read()
            status = server.wait()
        finally:
            timer.cancel()
        try:
            if status == 0:
                return [int(pid) for pid in json.loads(output)]
        except ValueError:
            pass
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines() or [f"exit status {status}"]
        raise Internal("START_FAILED", f"the services cannot be started: {lines[-1]}")
