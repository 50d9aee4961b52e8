"""Programs that are started as forks of one process."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.errors import Internal
from common.fork_client import ForkedProcess, ForkServer
from common.processes import python, terminate
from tests.harness.processes import wait_until

PROBE = "common.probe"
"""A program that ends by itself: without an address file it says so and fails."""

WAITING = """
import signal, sys, time
from pathlib import Path
from common.fork_client import ForkServer
from common.processes import python

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if the tests run in the background

def record(processes):
    Path(sys.argv[1], "pids").write_text(" ".join(str(process.pid) for process in processes))
    time.sleep(600)

with ForkServer(fresh=False, detach=True) as server:
    server.start([(python("common.probe", "x"), Path(sys.argv[1], "log"))] * 2, record=record)
"""
"""A program that receives the ids of its forks and never lets them run."""


def started(programs: Sequence[tuple[Sequence[str], Path]], *, fresh: bool = False) -> list[ForkedProcess]:
    found: list[ForkedProcess] = []
    with ForkServer(fresh=fresh, detach=False) as server:
        server.start(programs, record=found.extend)
    return found


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_forks_are_children_with_their_own_log_and_exit_status(tmp_path: Path) -> None:
    programs = [(python(PROBE, str(tmp_path / name)), tmp_path / f"{name}.log") for name in ("one", "two")]
    processes = started(programs)
    assert [process.wait(60) for process in processes] == [1, 1]
    assert [process.returncode for process in processes] == [1, 1]
    for name in ("one", "two"):
        assert f"{tmp_path / name} is missing" in (tmp_path / f"{name}.log").read_text(encoding="utf-8")


def test_a_fork_shows_its_own_command_line_and_can_be_ended(tmp_path: Path) -> None:
    home = ("--home", str(tmp_path), "--port", "0")
    programs = [(python(f"services.{name}", *home), tmp_path / f"{name}.log") for name in ("registry", "watermark")]
    registry, watermark = started(programs, fresh=True)
    try:
        wait_until(lambda: "listens on" in (tmp_path / "registry.log").read_text(), "the registry", timeout_s=60)
        assert Path(f"/proc/{registry.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0") == [
            os.fsencode(argument) for argument in programs[0][0]
        ]
        assert os.getpgid(registry.pid) == registry.pid
        assert registry.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            registry.wait(0.1)
        os.kill(watermark.pid, signal.SIGKILL)
        assert watermark.wait(10) == -signal.SIGKILL
    finally:
        assert terminate(registry, grace_s=20) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_fork_that_was_not_recorded_ends_with_the_process_that_started_it(number: int, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WAITING, str(tmp_path)], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text(), "the forks", timeout_s=60)
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert all(map(is_there, pids))
        process.send_signal(number)
        process.wait(30)
        wait_until(lambda: not any(map(is_there, pids)), "the forks to end")
        assert (tmp_path / "log").read_text() == ""
    finally:
        process.kill()
        process.wait()


def test_a_fork_ends_if_it_cannot_be_recorded(tmp_path: Path) -> None:
    found: list[ForkedProcess] = []

    def record(processes: list[ForkedProcess]) -> None:
        found.extend(processes)
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"), ForkServer(fresh=False, detach=False) as server:
        server.start([(python(PROBE, "x"), tmp_path / "log")], record=record)
    assert [process.wait(30) for process in found] == [0]
    assert (tmp_path / "log").read_text() == ""


def test_an_exit_status_that_the_system_throws_away_counts_as_success(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        (process,) = started([(python(PROBE, "x"), tmp_path / "log")])
        assert process.wait(60) == 0
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_what_keeps_the_forking_process_from_starting_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('no json here')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(Internal, match="no json here") as caught:
        started([(python(PROBE), tmp_path / "log")])
    assert caught.value.reason == "START_FAILED"
