"""A mesh that is started in a folder of untrusted files executes none of them."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import PluggedIn
from tests.e2e.small_job import SPEC
from tests.harness.images import image_file
from tests.harness.processes import processes_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TRAPS = ("triton", "random", "torch", "numpy", "sitecustomize", "common/__init__", "services/__init__")
PLUG_IN = """
from deepseek.models.image_question_net import image_question

def plugged_in(vocabulary: int, num_classes: int, width: int, features: int):
    return image_question(vocabulary=vocabulary, num_classes=num_classes, width=width, features=features)
"""


def install(folder: Path, name: str, module: str) -> None:
    """Installs the metadata of a package with a model, as pip would."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[deepseek.models]\nplugged_in = {module}:plugged_in\n")


def test_a_mesh_executes_nothing_of_the_folder_it_is_started_in(tmp_path: Path) -> None:
    here, executed = tmp_path / "here", tmp_path / "executed"
    (here / "images").mkdir(parents=True)
    for name in (*TRAPS, "trap_model"):
        trap = here / f"{name}.py"
        trap.parent.mkdir(exist_ok=True)
        trap.write_text(f"open({str(executed)!r}, 'a').write({name!r} + ' ')\n")
    install(here, "trap", "trap_model")
    install(tmp_path / "packages", "mine", "my_model")
    (tmp_path / "packages" / "my_model.py").write_text(PLUG_IN)
    home = PluggedIn(here / "home", packages=tmp_path / "packages")
    lines = []
    for number in range(8):
        (here / "images" / f"{number}.png").write_bytes(image_file(number))
        lines += [f"{number}.png\tis it?\tyes", f"{number}.png\twhy?\tno"]
    (here / "questions.txt").write_text("\n".join(["image\tquestion\tanswer", *lines]))
    model = {**SPEC["model"], "name": "plugged_in"}
    (here / "spec.json").write_text(json.dumps({**SPEC, "model": model, "precision": "fp32"}))
    try:
        for command in (
            "up --free-ports",
            "dataset upload d --images images --questions questions.txt",
            "train spec.json --dataset datasets/d/versions/1 --model m",
            "model load m",
            "ask images/0.png why? --model m",
            "status",
            "down",
            "audit verify",
        ):
            done = home.run(*command.split())
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            assert not executed.exists(), f"{command}: {executed.read_text()}"
    finally:
        home.run("down")
    assert processes_of(home.path) == {}
