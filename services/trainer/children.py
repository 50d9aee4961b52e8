"""One child process of a job: its directory, job file, log and the events it reports.

A child reads `job.json`, appends JSON lines to `events.jsonl` and looks for a file `stop`; its output goes to
`child.log`. It reports and never publishes: what a job makes becomes visible through the job's lease alone, so a
child that outlives its lease writes into a directory that nobody reads any more.
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

_EXPORT_S = 5
_LOG_TAIL_CHARACTERS = 2000

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def attempt_directory(parent: Path, attempt: int) -> Iterator[Path]:
    """Makes the working space of one attempt at a job, and removes it at the end.

    An attempt that lost its lease may still be winding up when the next one has begun, in the same process even, so
    each has a directory of its own. What earlier attempts left when they were killed goes; a later one's stays.

    Args:
        parent: The job's directory; there while an attempt is.
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
        with contextlib.suppress(OSError):  # another attempt is in there
            parent.rmdir()


class Child:
    """Starts the process. Use as a context manager: leaving it kills the process if it still runs.

    Args:
        directory: Made anew; whatever lay there is removed.
        argv: Program and arguments; the path of the job file is appended.
        job: Content of the job file; `dir` is added, and the span that this thread works for.
        env: Variables added to the environment.
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
        # Temporary files of a process that is killed go with its directory.
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
        """Waits for the process to end, at most this long; True if it has ended."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def events(self) -> list[dict[str, Any]]:
        """Complete lines reported since the last call, in order."""
        try:
            with (self.directory / "events.jsonl").open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        end = data.rfind(b"\n") + 1  # the rest of a line is still being written
        self._offset += end
        events = []
        for line in data[:end].splitlines():
            try:
                events.append(json.loads(line))
            except ValueError as error:
                _log.warning("skipping an unreadable event in %s: %s", self.directory, error)
        return events

    def ask_to_stop(self) -> None:
        """Asks the process to save its work and end. Idempotent."""
        with contextlib.suppress(FileNotFoundError):  # a later attempt has removed the directory
            (self.directory / "stop").touch()

    def let_export(self) -> None:
        """Gives a process that is done a moment to export its spans, if the trace of this thread is recorded."""
        span = current()
        if span and span.sampled:
            self.wait(_EXPORT_S)

    def kill(self) -> None:
        """Ends the process and everything it started. Idempotent."""
        if self._process.poll() is None:
            terminate(self._process, grace_s=0)

    def log_tail(self) -> str:
        """The end of what the process printed."""
        try:
            text = (self.directory / "child.log").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:  # a later attempt has removed the directory
            return ""
        return text.replace("\0", "")[-_LOG_TAIL_CHARACTERS:].strip()  # PostgreSQL has no NUL in text


def reported_error(event: Mapping[str, Any]) -> MeshError:
    """The error that a `failed` event carries."""
    return ERROR_CLASSES.get(event["code"], Internal)(event["reason"], event["message"], field=event.get("field", ""))
