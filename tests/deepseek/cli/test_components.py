import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepseek.components import ENCODERS, MODELS, REGISTRIES
from tests.deepseek.cli.commands import assert_refused, deepseek


def test_without_arguments_all_names_are_listed(tmp_path: Path) -> None:
    done = deepseek(tmp_path, "components")
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()[1 : len(REGISTRIES) + 1]}
    assert list(lines) == list(REGISTRIES)
    assert ", ".join(MODELS.names()) in lines["model"]


@pytest.mark.parametrize("kind", ["encoder", "encoders"])
def test_a_kind_is_listed_with_parameters_and_defaults(tmp_path: Path, kind: str) -> None:
    done = deepseek(tmp_path, "components", kind, "--json")
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert list(found) == ENCODERS.names()
    size, mode = found["image"]["parameters"]
    assert size == {
        "name": "size",
        "type": "int",
        "required": False,
        "default": 64,
        "description": "Height and width of the encoded image in pixels, from 1 to 4096.",
    }
    assert mode["default"] == "RGB"
    assert "size=64, mode='RGB'" in deepseek(tmp_path, "components", kind).stdout


def test_a_component_is_explained(tmp_path: Path) -> None:
    done = deepseek(tmp_path, "components", "schedule", "cosine")
    assert "Linear warm-up, then a decay along half a cosine" in done.stdout
    assert "Factor towards which the rate decays" in done.stdout


def test_unknown_kinds_and_names_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    done = deepseek(tmp_path, "components", "net")
    assert_refused(done, "INVALID_ARGUMENT: UNKNOWN_KIND", "kind")
    assert ", ".join(REGISTRIES) in done.stderr
    done = deepseek(tmp_path, "components", "model", "net")
    assert_refused(done, "INVALID_ARGUMENT: UNKNOWN_COMPONENT", "name")
    assert ", ".join(MODELS.names()) in done.stderr


def test_a_component_that_cannot_be_imported_is_listed_with_the_reason(tmp_path: Path) -> None:
    metadata = tmp_path / "mine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n", encoding="utf-8")
    entry_points = "[deepseek.schedules]\nbroken = my_broken_module:part\n"
    (metadata / "entry_points.txt").write_text(entry_points, encoding="utf-8")
    (tmp_path / "my_broken_module.py").write_text("raise RuntimeError('no such device')", encoding="utf-8")
    command = [sys.executable, "-m", "deepseek.cli", "components", "schedule", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    (found,) = [one for one in json.loads(done.stdout) if one["name"] == "broken"]
    assert "my_broken_module:part) cannot be imported: no such device" in found["error"]


def test_names_are_listed_without_torch() -> None:
    program = (
        "import sys; from deepseek.cli.components import components; components('', '', True);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
