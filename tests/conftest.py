"""How all tests run; CONTRIBUTING.md says why."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from deepseek.components import REGISTRIES
from tests.harness.processors import KINDS, Processor, covered, processor_of

_MEMORY = Path("/dev/shm")
_PREFIX = "deepseek-tests-"
_SIZE_BYTES = 12 << 30
"""More than all tests write, the images of the stack included."""

_owned = ExitStack()


class _Folders(LoadScopeScheduling):
    """Gives a worker the tests of one folder after the other."""

    def _split_scope(self, nodeid: str) -> str:
        folder = nodeid.partition("::")[0].rpartition("/")[0]
        # One worker runs them all: whole meshes beside each other are too much for small machines.
        return "tests/e2e" if folder.startswith("tests/e2e/") else folder


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
    # As in the Makefile: without cached bytecode, each process would compile all of its imports.
    environment.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves the longest folder to the front, so that no worker runs it alone at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/e2e/"))


def pytest_report_header() -> list[str]:
    """Reports the folder of temporary files and the processors."""
    return [f"temporary files: {tempfile.gettempdir()}", f"processors: {covered()}"]


@pytest.fixture(autouse=True)
def _registered_components() -> Iterator[None]:
    """Forgets the components that a test registers; otherwise later tests of its process would find them."""
    before = {registry: dict(registry._registered) for registry in REGISTRIES.values()}
    yield
    for registry, parts in before.items():
        registry._registered.clear()
        registry._registered.update(parts)


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
