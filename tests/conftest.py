"""How all tests run: a folder of them by one worker, what they write in memory if there is enough, and threads asleep.

Fixtures that are made once a session are made for the tests of a folder, so workers would make them twice otherwise.

Tests make and remove very many small files that have to be on disk before a call is answered; in memory they take two
thirds of the time. What is tested is the same: whoever needs a disk that is small, full or read-only makes one.

Tests run side by side on the same cores, where an OpenMP thread that spins while it waits holds up the one that it
waits for: training takes two to three times as long. So waiting threads sleep, which changes no result.
"""

import os
import re
import shutil
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.processors import KINDS, Processor, covered, processor_of

_MEMORY = Path("/dev/shm")
_PREFIX = "deepseek-tests-"
_SIZE_BYTES = 12 << 30
"""More than all tests write, the images of the stack included."""

_owned = ExitStack()


class _Folders(LoadScopeScheduling):
    """Gives a worker the tests of one folder after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0].rpartition("/")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Says which tests go to a worker together."""
    return _Folders(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Sets the environment; the processes that tests start take it as well, workers among them."""
    if hasattr(config, "workerinput"):
        return
    environment = _owned.enter_context(pytest.MonkeyPatch.context())
    environment.setenv("OMP_WAIT_POLICY", "PASSIVE")
    if not _has_room():
        return
    for left in _MEMORY.glob(f"{_PREFIX}*"):
        # Of a run that was killed.
        if not Path("/proc", left.name.split("-")[2]).exists():
            shutil.rmtree(left, ignore_errors=True)
    new = tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", dir=_MEMORY, ignore_cleanup_errors=True)
    folder = Path(_owned.enter_context(new))
    folder.chmod(0o711)  # database servers run as another user
    environment.setenv("TMPDIR", str(folder))
    environment.setattr(tempfile, "tempdir", None)


def pytest_report_header() -> list[str]:
    """Reports the folder of temporary files and the processors."""
    return [f"temporary files: {tempfile.gettempdir()}", f"processors: {covered()}"]


@pytest.fixture(params=KINDS)
def processor(request: pytest.FixtureRequest) -> Processor:
    """Each kind of processor on which programs can run here."""
    return processor_of(request.param)


def pytest_unconfigure() -> None:
    """Restores the environment and removes the folder."""
    _owned.close()


def _has_room() -> bool:
    with suppress(OSError):
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
        disk = os.statvfs(_MEMORY)
        free = disk.f_bavail * disk.f_frsize, int(found[1]) << 10 if found else 0
        return min(free) > _SIZE_BYTES and os.access(_MEMORY, os.W_OK) and not disk.f_flag & os.ST_NOEXEC
    return False
