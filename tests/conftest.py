"""Where all tests keep what they write: in memory, if this machine has enough and we may.

Tests make and remove very many small files that have to be on disk before a call is answered; in memory they take two
thirds of the time. What is tested is the same: whoever needs a disk that is small, full or slow makes one.
"""

import os
import re
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mounts import tmpfs

_SIZE_BYTES = 12 << 30
"""More than all tests write, the images of the stack included."""

_owned = ExitStack()


def pytest_configure() -> None:
    """Makes a file system for temporary files; the processes that tests start take it as well."""
    if os.geteuid() == 0 and _available_bytes() > _SIZE_BYTES * 4 // 3:
        folder = Path(_owned.enter_context(tempfile.TemporaryDirectory(prefix="deepseek-tests-")))
        environment = _owned.enter_context(pytest.MonkeyPatch.context())
        environment.setenv("TMPDIR", str(_owned.enter_context(tmpfs(folder / "tmp", str(_SIZE_BYTES)))))
        environment.setattr(tempfile, "tempdir", None)


def pytest_unconfigure() -> None:
    """Removes it."""
    _owned.close()


def _available_bytes() -> int:
    """How much memory is free, or would be if it were needed."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found[1]) << 10 if found else 0
