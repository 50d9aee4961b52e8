"""`deepseek federated demo`, with two rounds instead of ten."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from deepseek.demo import federation

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_four_nodes_train_without_and_with_privacy(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    command = ["federated", "demo", "--free-ports", "--report", str(folder), "--json"]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.e2e.small_federated_demo", *command],
        env={**os.environ, "DEEPSEEK_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout)
    assert figures == json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert (figures["rounds"], figures["nodes"], figures["refusals"]) == (4, federation.NUM_NODES, 0)
    assert 7 < figures["epsilon"] <= federation.EPSILON  # the noise is chosen so that all rounds spend it
    assert figures["epsilon_left"] == pytest.approx(federation.EPSILON - figures["epsilon"])
    # Both start from a model that the coordinator's few images make better than chance.
    assert min(figures["accuracy_start"], figures["accuracy"], figures["accuracy_dp"]) > 2 / 8
    with Image.open(folder / "rounds.png") as picture:
        assert picture.size == (960, 720)
