"""The command line without a mesh: help, wrong usage, files that are not what they should be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ["demo", "up", "down", "status", "ask", "dataset", "model", "train", "infer", "doctor"]


def deepseek(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [Path(sys.executable).with_name("deepseek"), *arguments],
        env={**os.environ, "DEEPSEEK_HOME": str(home), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_refused(done: "subprocess.CompletedProcess[str]", error: str, field: str) -> None:
    assert done.returncode == 1
    assert f"  {error}\n  field: {field}\n" in done.stderr
    assert "Traceback" not in done.stderr


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


@pytest.mark.parametrize(("name", "content"), [("spec.json", b'{"epochs": "\xff"}'), ("spec.toml", b'a = "\xff"')])
def test_a_spec_that_is_not_utf_8_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    done = deepseek(tmp_path, "train", str(tmp_path / name))
    assert_refused(done, "INVALID_ARGUMENT: BAD_SPEC_FILE", "spec")
    assert name in done.stderr


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_home_that_cannot_be_made_is_named(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    report = ["--report", str(tmp_path / "report")] if command == "demo" else []
    done = deepseek(tmp_path / "file" / "home", command, *report)
    assert_refused(done, "FAILED_PRECONDITION: HOME_NOT_WRITABLE", "home")
    assert "DEEPSEEK_HOME" in done.stderr


@pytest.mark.parametrize("command", ["status", "down"])
def test_no_mesh_runs_in_a_home_that_cannot_be(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = deepseek(tmp_path / "file" / "home", command)
    assert "no mesh runs here" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_report_that_cannot_be_written_is_named_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = deepseek(tmp_path / "home", "demo", "--report", str(tmp_path / "file" / "report"))
    assert_refused(done, "FAILED_PRECONDITION: OUTPUT_NOT_WRITABLE", "--report")
    assert not (tmp_path / "home").exists()


def test_outputs_that_cannot_be_written_are_named_before_a_model_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = deepseek(tmp_path, "infer", "model", "--output", str(tmp_path / "file" / "out.npz"))
    assert_refused(done, "FAILED_PRECONDITION: OUTPUT_NOT_WRITABLE", "--output")


def test_doctor_reports_what_it_finds(tmp_path: Path) -> None:
    done = deepseek(tmp_path, "doctor", "--json")
    checks = {check["check"]: check for check in json.loads(done.stdout.splitlines()[-1])}
    assert {"Python", "torch", "ONNX Runtime", "gRPC", "processor", "home"} <= set(checks)
    assert checks["Python"]["ok"]
