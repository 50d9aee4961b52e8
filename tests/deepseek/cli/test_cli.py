"""The command line without a mesh: help, wrong usage, files that are not what they should be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ["demo", "up", "down", "status", "ask", "dataset", "model", "train", "infer", "doctor", "invite", "join"]


def deepseek(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [Path(sys.executable).with_name("deepseek"), *arguments],
        env={**os.environ, "DEEPSEEK_HOME": str(home), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_every_command(tmp_path: Path) -> None:
    done = deepseek(tmp_path, "--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    done = deepseek(tmp_path, command, "--help")
    assert done.returncode == 0
    assert len(done.stdout) > 200


def test_wrong_usage_is_status_2(tmp_path: Path) -> None:
    assert deepseek(tmp_path, "nothing").returncode == 2
    assert deepseek(tmp_path, "ask", str(tmp_path / "missing.png"), "what?").returncode == 2


def test_down_without_a_mesh_says_so(tmp_path: Path) -> None:
    done = deepseek(tmp_path, "down")
    assert (done.returncode, done.stdout) == (0, "no mesh runs here\n")


def test_a_spec_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text("{")
    done = deepseek(tmp_path, "train", str(tmp_path / "spec.json"))
    assert done.returncode == 1
    assert "INVALID_ARGUMENT: BAD_SPEC_FILE" in done.stderr
    assert "field: spec" in done.stderr


def test_doctor_reports_what_it_finds(tmp_path: Path) -> None:
    done = deepseek(tmp_path, "doctor", "--json")
    checks = {check["check"]: check for check in json.loads(done.stdout.splitlines()[-1])}
    assert {"Python", "torch", "ONNX Runtime", "gRPC", "processor", "home"} <= set(checks)
    assert checks["Python"]["ok"]
