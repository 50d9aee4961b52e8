"""A child process that does the work of a job: its directory, job file, log, events and stop file.

The child reads `job.json`, appends JSON lines to `events.jsonl` and watches for a file named `stop`. Its output goes to
`child.log`. Only the handler that holds the job's lease publishes results. A child that outlives the lease is harmless,
because it writes to a directory that is no longer read.
"""

import contextlib
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from common.errors import ERROR_CLASSES, Internal, MeshError
from common.processes import spawn, terminate
from common.telemetry.traces import TRACEPARENT, current, traceparent

_SPAN_EXPORT_S = 5
_LOG_TAIL_CHARACTERS = 2000
_MAX_EVENT_BYTES = 1 << 20

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def attempt_directory(parent: Path, attempt: int) -> Iterator[Path]:
    """Creates the working directory of one attempt at a job, and removes it at the end.

    An attempt that lost its lease may still be running when the next attempt starts, even in the same process, so each
    attempt has its own directory. Directories left behind by earlier attempts are removed; those of later attempts are
    kept.

    Args:
        parent: Directory of the job. It exists only while an attempt has a directory in it.
        attempt: Fencing token of the lease.
    """
    for left in parent.glob("*"):
        if left.name.isdigit() and int(left.name) < attempt:
            shutil.rmtree(left, ignore_errors=True)
    directory = parent / str(attempt)
    while True:
        with contextlib.suppress(FileNotFoundError):  # an earlier attempt has removed the parent just now
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            break
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(OSError):  # another attempt's directory is in it
            parent.rmdir()


class ChildProcess:
    """A child process, started by the constructor. If it is still running at the end of a `with` block, it is killed.

    Args:
        directory: Working directory. An existing directory is replaced.
        argv: Program and arguments. The path of the job file is appended.
        job: Content of the job file, to which `dir` and the current span are added.
        env: Variables to add to the environment.
    """

    def __init__(
        self, directory: Path, argv: Sequence[str], job: Mapping[str, Any], *, env: Mapping[str, str] | None = None
    ) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True, mode=0o700)
        self.directory = directory
        self._offset = 0
        job_file = directory / "job.json"
        content = {**job, TRACEPARENT: traceparent(), "dir": str(directory)}
        job_file.write_text(json.dumps(content), encoding="utf-8")
        # The temporary files of a killed process are removed with its directory.
        environment = {**os.environ, **(env or {}), "TMPDIR": str(directory)}
        self._process = spawn([*argv, str(job_file)], env=environment, log=directory / "child.log")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def wait(self, timeout_s: float) -> bool:
        """Waits until the process exits or the timeout passes; returns whether the process has exited."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def events(self) -> list[dict[str, Any]]:
        """Returns the events that the process has reported since the last call, in order."""
        events = []
        for line in self._lines():
            try:
                events.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                _logger.warning("skipping an unreadable event in %s: %s", self.directory, error)
        return events

    def _lines(self) -> Iterator[bytes]:
        """Yields the new, complete lines of the event file. Of a line that is too long, only the start is read."""
        with contextlib.suppress(FileNotFoundError), (self.directory / "events.jsonl").open("rb") as file:
            file.seek(self._offset)
            while line := file.readline(_MAX_EVENT_BYTES):
                rest = line
                while rest and not rest.endswith(b"\n"):
                    rest = file.readline(_MAX_EVENT_BYTES)
                if not rest:
                    return  # the rest of the line is still being written
                self._offset = file.tell()
                yield line

    def ask_to_stop(self) -> None:
        """Asks the process to save its work and to exit. Idempotent."""
        with contextlib.suppress(FileNotFoundError):  # a later attempt has removed the directory
            (self.directory / "stop").touch()

    def wait_for_span_export(self) -> None:
        """If the current trace is sampled, waits up to 5 s for the process to export its spans and exit."""
        span = current()
        if span and span.sampled:
            self.wait(_SPAN_EXPORT_S)

    def kill(self) -> None:
        """Kills the process and its descendants. Idempotent."""
        if self._process.poll() is None:
            terminate(self._process, grace_s=0)

    def log_tail(self) -> str:
        """Returns the last 2000 characters of the process's output."""
        try:
            text = (self.directory / "child.log").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:  # a later attempt has removed the directory
            return ""
        return text.replace("\0", "")[-_LOG_TAIL_CHARACTERS:].strip()  # not valid in PostgreSQL


def reported_error(event: Mapping[str, Any]) -> MeshError:
    """Returns the error that a `failed` event reports."""
    return ERROR_CLASSES.get(event["code"], Internal)(event["reason"], event["message"], field=event.get("field", ""))
