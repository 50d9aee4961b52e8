"""One demo for all end-to-end tests: killed half-way through training, then run again to its end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.errors import MeshError
from deepseek.client import MeshFile, connect
from tests.harness.processes import processes_of, wait_until

ROOT = Path(__file__).resolve().parents[2]
DEEPSEEK = Path(sys.executable).with_name("deepseek")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives the first test that needs the demo time for it: two minutes on a fast machine, ten on a slow, busy one."""
    for item in items:
        if "demo" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(3600))


@dataclass(frozen=True)
class Home:
    """A home directory of a mesh, and the command line on it.

    Attributes:
        path: The directory; it need not exist.
        program: The command line.
    """

    path: Path
    program: Sequence[str | Path] = (DEEPSEEK,)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{DEEPSEEK.parent}:{os.environ['PATH']}"
        return {**os.environ, "DEEPSEEK_HOME": str(self.path), "PATH": path, "PYTHONPATH": str(ROOT)}

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*self.program, *arguments],
            env=self.environment,
            cwd=self.path.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, timeout_s: float = 900) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self.program, *arguments],
            env=self.environment,
            cwd=self.path.parent,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


@dataclass(frozen=True)
class PluggedIn(Home):
    """A home whose commands have packages on PYTHONPATH."""

    packages: Path = Path()

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(ROOT), str(self.packages)])
        return {**super().environment, "PYTHONPATH": path}


@dataclass(frozen=True)
class Demo:
    """A finished demo.

    Attributes:
        home: Where it ran.
        survivors: Processes that outlived the demo that was killed in training.
        output: What the second, finished demo printed.
        figures: Its report.
        report: Folder of its report.
    """

    home: Home
    survivors: dict[int, str]
    output: str
    figures: dict[str, object]
    report: Path


def has_checkpoint(mesh_file: Path) -> bool:
    try:
        with connect(mesh_file) as mesh:
            return any(run.HasField("checkpoint") for run in mesh.runs.list())
    except MeshError:
        return False


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo, killed with SIGKILL after its first checkpoint and run again."""
    home = Home(tmp_path_factory.mktemp("demo") / "home")
    mesh_file = home.path / MeshFile.default_path().name
    first = home.start("demo", "--free-ports")
    try:
        wait_until(lambda: has_checkpoint(mesh_file) or first.poll() is not None, "a first checkpoint", timeout_s=900)
        assert first.poll() is None, first.communicate()
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    survivors: dict[int, str] = {}
    try:
        wait_until(lambda: not processes_of(home.path), "the end of all processes", timeout_s=120)
    except AssertionError:
        survivors = processes_of(home.path)
    second = home.run("demo", "--free-ports", "--json", timeout_s=1700)
    assert second.returncode == 0, second.stdout + second.stderr
    return Demo(home, survivors, second.stderr, json.loads(second.stdout), home.path.parent / "demo-report")


@pytest.fixture(scope="module")
def running_mesh(demo: Demo) -> Iterator[Home]:
    """The demo's mesh, started to stay."""
    up = demo.home.run("up", "--free-ports")
    assert up.returncode == 0, up.stdout + up.stderr
    yield demo.home
    down = demo.home.run("down")
    assert down.returncode == 0, down.stdout + down.stderr
