"""The main job under faults: whatever is killed or interrupted whenever, it ends right and leaves no process."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deepseek.client import MeshFile, connect
from deepseek.embedded import status, stop_mesh
from deepseek.services import SERVICES
from protos.job.v1 import job_pb2
from tests.e2e.conftest import Home, has_checkpoint
from tests.harness.processes import processes_of, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(1800)]

PROGRAM = (sys.executable, str(Path(__file__).with_name("small_demo.py")))
SEED = 0
WORKER = "-m deepseek.trainjob.train_main"
EXPORT = "-m deepseek.trainjob.export_main"


class RunningDemo:
    """A demo under way.

    Args:
        home: Where it runs.
        arguments: Further ones.
    """

    def __init__(self, home: Home, *arguments: str) -> None:
        self.home = home
        self._process = home.start("demo", "--free-ports", "--json", *arguments)
        self._output: list[str] = []
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=kept.extend, args=(stream,))
            for kept, stream in ((self._output, self._process.stdout), (self._errors, self._process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Waits, but not for a demo that has ended."""
        wait_until(lambda: condition() or self._process.poll() is not None, what, timeout_s=600)
        assert self._process.poll() is None, self.end()

    def wait_for_step(self, step: str) -> None:
        """Waits until it has begun a step, by what it prints."""
        self.wait_for(lambda: any(line.startswith(f"{step} ─") for line in self._errors), step)

    def wait_for_checkpoint(self) -> None:
        """Waits until its run has a checkpoint."""
        self.wait_for(lambda: has_checkpoint(self.home.path / "mesh.json"), "a checkpoint")

    def processes(self, command: str) -> set[int]:
        """Its processes whose command line holds a text."""
        found = processes_of(self.home.path)
        return {pid for pid, line in found.items() if command in line}

    def kill(self, command: str) -> int:
        """Kills a process as soon as there is one, and returns its id."""
        found: set[int] = set()

        def is_found() -> bool:
            found.update(self.processes(command))
            return bool(found)

        self.wait_for(is_found, command)
        pid = min(found)
        os.kill(pid, signal.SIGKILL)
        return pid

    def interrupt(self) -> tuple[int, str]:
        """Presses Ctrl-C; exit status and standard error."""
        self._process.send_signal(signal.SIGINT)
        exit_status, _, errors = self.end()
        return exit_status, errors

    def end(self) -> tuple[int, str, str]:
        """Waits for its end; exit status, standard output and standard error."""
        try:
            exit_status = self._process.wait(600)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)  # shows where its threads are, see small_demo.py
            exit_status = self._process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        return exit_status, "".join(self._output), "".join(self._errors)

    def close(self) -> None:
        """Ends it, if a test has failed."""
        self._process.kill()
        self.end()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", PROGRAM)


@pytest.fixture
def start(home: Home) -> Iterator[Callable[..., RunningDemo]]:
    """Starts demos that end with the test, and their meshes with them."""
    with ExitStack() as owned:
        owned.callback(stop_mesh, home.path)

        def begin(*arguments: str) -> RunningDemo:
            demo = RunningDemo(home, *arguments)
            owned.callback(demo.close)
            return demo

        yield begin


def pause(draw: random.Random, longest_s: float) -> None:
    threading.Event().wait(draw.uniform(0, longest_s))


def test_the_demo_ends_right_whatever_is_killed(home: Home, start: Callable[..., RunningDemo]) -> None:
    draw = random.Random(SEED)
    demo = start()
    demo.wait_for_step("ingest")
    pause(draw, 1)
    demo.kill("-m services.ingest")
    demo.kill("-m services.registry")

    demo.wait_for_checkpoint()
    demo.kill(WORKER)
    pause(draw, 8)
    workers = demo.processes(WORKER)
    demo.kill("-m services.trainer")
    wait_until(lambda: not workers & demo.processes(WORKER), "the workers to follow their trainer", timeout_s=60)

    demo.wait_for_step("export")
    demo.kill(EXPORT)
    pause(draw, 4)
    demo.kill("-m services.registry")

    demo.wait_for_step("serve")
    pause(draw, 0.5)
    demo.kill("-m services.inference")

    exit_status, output, errors = demo.end()
    assert exit_status == 0, errors
    assert processes_of(home.path) == {}
    figures = json.loads(output.splitlines()[-1])
    assert figures["served_equals_offline"] is True
    assert figures["dataset_version"] == "datasets/easy-vqa/versions/1"
    assert figures["model_version"] == "models/easy-vqa/versions/1"
    for service, times in {"ingest": 1, "registry": 2, "trainer": 1, "inference": 1}.items():
        assert errors.count(f"{service} was ended by SIGKILL") == times


def test_an_interrupted_demo_goes_on_when_it_is_started_again(home: Home, start: Callable[..., RunningDemo]) -> None:
    draw = random.Random(SEED)
    for step in ("ingest", "train", "export", "serve"):
        demo = start()
        demo.wait_for_step(step)
        match step:
            case "train":
                demo.wait_for_checkpoint()
            case "export":
                demo.wait_for(lambda demo=demo: bool(demo.processes(EXPORT)), "the export")  # type: ignore[misc]
        pause(draw, 0.3)
        exit_status, errors = demo.interrupt()
        assert exit_status == 130, errors
        assert "stopped" in errors
        wait_until(lambda: processes_of(home.path) == {}, "the end of all processes", timeout_s=60)

    exit_status, output, errors = start("--keep").end()
    assert exit_status == 0, errors
    figures = json.loads(output.splitlines()[-1])
    assert figures["reused_run"] is True
    try:
        states = [service.state for service in status(MeshFile.read(home.path / "mesh.json"))]
        with connect(home.path / "mesh.json") as mesh:
            (run,) = mesh.runs.list()
            starts = [event.attempt for event in mesh.runs.watch(run.name) if event.HasField("attempt")]
            assert [version.name for version in mesh.datasets.versions("easy-vqa")] == [figures["dataset_version"]]
            assert [version.name for version in mesh.models.versions("easy-vqa")] == [figures["model_version"]]
    finally:
        down = home.run("down")
    assert states == ["serving"] * len(SERVICES)
    assert run.name == figures["run"]
    assert [one.attempt for one in starts] == sorted({one.attempt for one in starts}), "one writer at a time"
    assert starts[-1].start_step > 0
    assert down.returncode == 0
    assert processes_of(home.path) == {}


def test_a_fresh_demo_stops_the_one_that_was_interrupted(home: Home, start: Callable[..., RunningDemo]) -> None:
    demo = start()
    demo.wait_for_checkpoint()
    assert demo.interrupt()[0] == 130

    exit_status, output, errors = start("--fresh", "--keep").end()
    assert exit_status == 0, errors
    figures = json.loads(output.splitlines()[-1])
    assert figures["reused_run"] is False
    try:
        with connect(home.path / "mesh.json") as mesh:
            fresh, interrupted = mesh.runs.list()
            starts = [event.attempt for event in mesh.runs.watch(fresh.name) if event.HasField("attempt")]
    finally:
        home.run("down")
    assert fresh.name == figures["run"]
    assert [one.start_step for one in starts] == [0]
    assert (fresh.job.state, interrupted.job.state) == (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_CANCELLED)
    assert f"{interrupted.name}: stopped" in errors
