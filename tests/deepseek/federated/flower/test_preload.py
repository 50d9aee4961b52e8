"""The program that takes the place of `flwr-clientapp`, with the process that starts it and without."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.processes import python, spawn
from deepseek.federated.flower import preload
from tests.harness.processes import wait_until

USAGE = "Run a Flower ClientApp"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A work folder whose path is longer than the address of a socket."""
    folder = tmp_path / ("deep" * 30) / "it's {deep}"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def running(folder: Path, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The process that starts client apps; its temporary directory is `tmp`."""
    (tmp_path / "tmp").mkdir()
    path = folder / "apps.sock"
    preload.install(folder / "bin", path)
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "tmp")}
    process = spawn(python(preload.__name__, str(path)), env=environment, log=folder / "log")
    yield process
    process.kill()
    process.wait()


def run(folder: Path) -> str:
    """Runs the script; returns its own output."""
    script = [str(folder / "bin" / preload.PROGRAM), "--help"]
    return subprocess.run(script, check=True, capture_output=True, text=True).stdout


def test_a_process_that_has_imported_flower_starts_client_apps_in_a_deep_folder(
    folder: Path, tmp_path: Path, running: "subprocess.Popen[bytes]"
) -> None:
    wait_until((folder / "apps.sock").is_socket, "the process that starts client apps", timeout_s=60)
    assert (folder / "apps.sock").stat().st_mode & 0o777 == 0o600
    assert run(folder) == ""
    wait_until(lambda: USAGE in (folder / "log").read_text(), "the output of the fork", timeout_s=60)
    running.kill()
    running.wait()
    assert USAGE in run(folder), "Flower's own program"
    assert not list((tmp_path / "tmp").iterdir())
    assert {path.name for path in folder.iterdir()} == {"apps.sock", "bin", "log"}
