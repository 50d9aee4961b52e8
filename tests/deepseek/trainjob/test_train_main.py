"""The worker as a process: it trains, stops when asked, goes on exactly, and dies with those above it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.artifacts import Artifact
from common.processes import python, spawn
from tests.deepseek.trainjob.jobs import events, write_job
from tests.harness.processes import wait_until


def start(path: Path) -> "subprocess.Popen[bytes]":
    """Starts one worker as its agent would, as the only rank."""
    ranks = {"RANK": "0", "WORLD_SIZE": "1"}
    argv = python("deepseek.trainjob.train_main", str(path))
    environment = {**os.environ, **ranks, "OMP_NUM_THREADS": "1"}
    return spawn(argv, env=environment, log=path.parent / "log")


def run(path: Path) -> list[dict[str, Any]]:
    """Runs a worker to its end; returns what it reported."""
    process = start(path)
    process.wait(120)
    return events(path)


def digest(checkpoint: dict[str, Any]) -> str:
    return Artifact.from_json(checkpoint["artifact"]).sha256


def checkpoints(reported: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in reported if event["kind"] == "checkpoint"]


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = run(write_job(tmp_path, name="whole"))
    assert whole[-1]["kind"] == "finished"
    assert whole[-1]["metrics"]["next_token_accuracy"] > 0.5

    path = write_job(tmp_path, name="first")
    process = start(path)
    wait_until(lambda: bool(checkpoints(events(path))), "a checkpoint")
    (path.parent / "stop").touch()
    assert process.wait(60) == 0
    first = events(path)
    assert first[-1]["kind"] == "stopped"
    last = checkpoints(first)[-1]
    assert 0 < last["step"] < checkpoints(whole)[-1]["step"]

    second = run(write_job(tmp_path, name="second", checkpoint_sha256=digest(last)))
    assert second[-1]["kind"] == "finished"
    assert second[-1]["metrics"] == whole[-1]["metrics"]
    assert checkpoints(second)[-1]["artifact"] == checkpoints(whole)[-1]["artifact"]

    # Killed after the last checkpoint and before the end was told: nothing is left to train, only to tell.
    again = run(write_job(tmp_path, name="again", checkpoint_sha256=digest(checkpoints(whole)[-1])))
    assert again[-1]["kind"] == "finished"
    assert again[-1]["metrics"] == whole[-1]["metrics"]


@pytest.mark.parametrize(
    ("spec", "reason", "field"),
    [
        ({"model": {"name": "character_lm", "params": {"wide": 3}}}, "UNKNOWN_FIELD", "spec.model.params.wide"),
        ({"optimizer": {"name": "adamw", "params": {"lr": "fast"}}}, "BAD_VALUE", "spec.optimizer.params.lr"),
        ({"model": {"name": "character_lm", "params": {"vocabulary": 4}}}, "BAD_VALUE", "spec.model"),
    ],
)
def test_what_the_spec_has_wrong_is_reported(tmp_path: Path, spec: dict[str, Any], reason: str, field: str) -> None:
    (failed,) = run(write_job(tmp_path, spec=spec))
    assert (failed["kind"], failed["code"]) == ("failed", "INVALID_ARGUMENT")
    assert (failed["reason"], failed["field"]) == (reason, field)


PARENT = """
import sys, threading
from pathlib import Path
from common.artifacts import Artifact
from common.processes import python, spawn
spawn(sys.argv[2:], env=None, log=Path(sys.argv[1]))
threading.Event().wait()
"""


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """A process that has started an agent of two workers and waits."""
    path = write_job(tmp_path, spec={"epochs": 100_000, "num_workers": 2})
    agent = python("deepseek.trainjob.agent", "2", str(path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = path.with_name("child.log")
    process = spawn([sys.executable, "-c", PARENT, str(log), *agent], env=environment, log=log)
    yield process, path
    process.kill()
    process.wait()


def below(path: Path) -> set[int]:
    """Processes, not yet ended, that were started for a job file, but for the one that started them."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if str(path).encode() in arguments and b"-c" not in arguments and state != "Z":
                found.add(int(entry.name))
    return found


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("victim", ["trainer", "agent"])
def test_no_worker_outlives_its_trainer_or_its_agent(
    trainer: tuple["subprocess.Popen[bytes]", Path], victim: str
) -> None:
    process, path = trainer
    wait_until(lambda: bool(events(path)), "training to begin", timeout_s=120)
    agent, *_ = sorted(below(path))
    assert len(below(path)) == 3
    os.kill(process.pid if victim == "trainer" else agent, signal.SIGKILL)
    wait_until(lambda: not below(path), "all to be gone", timeout_s=60)


@pytest.mark.faults
@pytest.mark.slow
def test_an_agent_says_which_worker_was_killed_and_ends_the_other(
    trainer: tuple["subprocess.Popen[bytes]", Path],
) -> None:
    _, path = trainer
    wait_until(lambda: bool(events(path)), "training to begin", timeout_s=120)
    _, first, _ = sorted(below(path))
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not below(path), "all to be gone", timeout_s=60)
    assert "worker 0 of 2 was ended by SIGKILL" in path.with_name("child.log").read_text()


def test_an_agent_ends_as_its_workers_do(tmp_path: Path) -> None:
    path = write_job(tmp_path, spec={"num_workers": 2})
    agent = spawn(python("deepseek.trainjob.agent", "2", str(path)), env=None, log=tmp_path / "log")
    assert agent.wait(120) == 0
    assert events(path)[-1]["kind"] == "finished"

    path = write_job(
        tmp_path, name="refused", spec={"num_workers": 2, "model": {"name": "character_lm", "params": {"wide": 3}}}
    )
    agent = spawn(python("deepseek.trainjob.agent", "2", str(path)), env=None, log=tmp_path / "log")
    assert agent.wait(120) == 1
    assert {event["reason"] for event in events(path)} == {"UNKNOWN_FIELD"}
