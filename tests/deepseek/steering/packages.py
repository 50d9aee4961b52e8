"""Installs the users' policies as a package, for this process and for those that it starts."""

import os
from pathlib import Path

import pytest

from deepseek.components import POLICIES

NAMES = (
    *("lr_scheduler", "by_accuracy", "by_training", "in_numpy", "raising", "nan", "infinite", "negative", "zero"),
    *("text", "huge", "hanging", "dawdling", "leaving", "talking", "Counting", "Falling", "Slow"),
)


def install(folder: Path) -> Path:
    """Writes the package `my_policies` with one entry point per policy; returns the folder for PYTHONPATH."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("user_functions.py").read_text(encoding="utf-8")
    (folder / "my_policies.py").write_text(source, encoding="utf-8")
    info = folder / "my_policies-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-policies\nVersion: 1.0\n")
    lines = [f"{name.lower()} = my_policies:{name}" for name in NAMES]
    (info / "entry_points.txt").write_text("\n".join(["[deepseek.policies]", *lines]) + "\n")
    return folder


def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the package importable here and in child processes, for one test."""
    path = str(install(folder))
    monkeypatch.syspath_prepend(path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH")])))
    monkeypatch.setattr(POLICIES, "_entry_points", None)
