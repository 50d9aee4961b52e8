"""The start-up benchmark reports ratios of rounds, and commands run apart from the caller's environment."""

import json
import stat
import subprocess
from pathlib import Path

import pytest

from benchmarks import startup


def checkout(folder: Path, program: str) -> Path:
    """Makes a checkout whose `python` is a shell script."""
    path = folder / ".venv" / "bin" / "python"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{program}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


def test_a_ratio_is_the_median_of_the_ratios_of_rounds() -> None:
    result = startup.summary("up", [1.0, 3.0, 10.0], [2.0, 5.0, 10.0])
    assert result["up_ratio"] == pytest.approx(0.6)
    assert (result["up_s"], result["up_before_s"]) == (3.0, 5.0)
    low, high = result["up_ratio_interval"]
    assert 0.5 <= low <= 0.6 <= high <= 1.0
    assert json.loads(json.dumps(result)) == result


def test_a_command_runs_in_its_checkout_without_the_settings_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSEEK_REGISTRY_PORT", "7999")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    at = checkout(tmp_path / "checkout", "env > seen")
    assert startup.run_s(at, startup.HELP, tmp_path / "home") > 0
    seen = (at / "seen").read_text(encoding="utf-8").splitlines()
    assert f"DEEPSEEK_HOME={tmp_path / 'home'}" in seen
    assert not [line for line in seen if line.startswith(("DEEPSEEK_REGISTRY_PORT", "PYTHON"))]


def test_a_command_that_fails_ends_the_measurement(tmp_path: Path) -> None:
    at = checkout(tmp_path / "checkout", "exit 3")
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        startup.help_s(at)
