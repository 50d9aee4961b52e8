"""The directives of a run, as a worker receives them: those in the job file, then the lines of a growing file.

The trainer appends one JSON object per line to `directives.jsonl` in the job's directory. The worker keeps the file
open, and looks at its size before every step, but at most 200 times per second, because a system call takes long after
the work of a step: the caches hold other data.
"""

import json
import os
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from deepseek.steering.directive import Directive
from deepseek.trainjob.jobfile import JobFile

FILE = "directives.jsonl"
_READ_BYTES = 1 << 20


class Inbox:
    """Returns new directives. Not thread-safe.

    Args:
        directory: Directory of the job.
        first: Directives from before the workers were started.
        interval_s: Minimum time between two looks at the file, in seconds.

    Raises:
        OSError: The file cannot be created.
    """

    def __init__(self, directory: Path, first: Sequence[Directive] = (), *, interval_s: float = 0.005) -> None:
        self._first = list(first)
        self._file = os.open(directory / FILE, os.O_RDONLY | os.O_CREAT, 0o600)
        self._offset = 0
        self._interval_s = interval_s
        self._look_at_s = 0.0
        weakref.finalize(self, os.close, self._file)

    @classmethod
    def of(cls, job: JobFile) -> Self:
        """Returns the inbox of a job."""
        return cls(job.directory, [Directive.from_json(one) for one in job.options.get("directives", ())])

    def __call__(self) -> Sequence[Directive]:
        """Returns the directives since the last call. Never waits."""
        now_s = time.monotonic()
        if now_s < self._look_at_s:
            return ()
        self._look_at_s = now_s + self._interval_s
        if os.fstat(self._file).st_size == self._offset and not self._first:
            return ()
        first, self._first = self._first, []
        return [*first, *self._lines()]

    def _lines(self) -> Sequence[Directive]:
        data = b""
        while part := os.pread(self._file, _READ_BYTES, self._offset + len(data)):
            data += part
        complete = data[: data.rfind(b"\n") + 1]  # the rest is still being written
        self._offset += len(complete)
        found = []
        for line in complete.splitlines():
            with suppress(ValueError):  # part of a line, which was written again as a whole
                found.append(Directive.from_json(json.loads(line)))
        return found


def append(directory: Path, directives: Sequence[Directive]) -> None:
    """Adds directives to the file in the directory of a job.

    If this fails, some of them may have been written, and the last one in part. They can be added again: readers ignore
    what is no whole line.

    Raises:
        OSError: The file cannot be written.
    """
    data = "".join(json.dumps(one.to_json()) + "\n" for one in directives).encode()
    file = os.open(directory / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            data = b"\n" + data
        while data:
            data = data[os.write(file, data) :]
    finally:
        os.close(file)
