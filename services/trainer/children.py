"""One child process of a job: its directory, job file, log and the events it reports.

A child reads `job.json`, appends JSON lines to `events.jsonl` and looks for a file `stop`; its output goes to
`child.log`. It reports and never publishes: what a job makes becomes visible through the job's lease alone, so a
child that outlives its lease writes into a directory that nobody reads any more.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from common.errors import ERROR_CLASSES, Internal, MeshError
from common.processes import spawn, terminate

_LOG_TAIL_CHARACTERS = 2000


class Child:
    """Starts the process. Use as a context manager: leaving it kills the process if it still runs.

    Args:
        directory: Made anew; whatever lay there is removed.
        argv: Program and arguments; the path of the job file is appended.
        job: Content of the job file; `dir` is added.
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
        job_file.write_text(json.dumps({**job, "dir": str(directory)}), encoding="utf-8")
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
        return [json.loads(line) for line in data[:end].splitlines()]

    def ask_to_stop(self) -> None:
        """Asks the process to save its work and end. Idempotent."""
        (self.directory / "stop").touch()

    def kill(self) -> None:
        """Ends the process and everything it started. Idempotent."""
        if self._process.poll() is None:
            terminate(self._process, grace_s=0)

    def log_tail(self, *, until: str = "") -> str:
        """The end of what the process printed.

        Args:
            until: Leave out what follows the first line that holds this.
        """
        text = (self.directory / "child.log").read_text(encoding="utf-8", errors="replace")
        lines = text.replace("\0", "").splitlines()  # PostgreSQL has no NUL in text
        ends = [number for number, line in enumerate(lines, 1) if until and until in line]
        return "\n".join(lines[: ends[0] if ends else None])[-_LOG_TAIL_CHARACTERS:].strip()


def reported_error(event: Mapping[str, Any]) -> MeshError:
    """The error that a `failed` event carries."""
    return ERROR_CLASSES.get(event["code"], Internal)(event["reason"], event["message"], field=event.get("field", ""))
