"""`deepseek tune plot`: a study of the mesh as a picture or a page."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from deepseek.cli.tune_plot import from_proto
from deepseek.client import MeshFile, ServiceAddress, connect
from deepseek.search.space import Value
from deepseek.search.study_spec import StudySpec
from tests.deepseek.cli.commands import assert_refused, deepseek, succeeded
from tests.harness.in_process import service_in_process
from tests.services.tuner.specs import SPEC

TWO = {
    **SPEC,
    "parameters": [*SPEC["parameters"], {"name": "batch", "choices": {"values": [16, 32, 0.5, True, "all"]}}],
    "objectives": [*SPEC["objectives"], {"metric": "speed", "goal": "GOAL_MAXIMIZE"}],
    "algorithm": {"name": "random"},
    "pruner": {},
}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A mesh with a tuner that has a study of two objectives with 12 trials, and one without trials."""
    with service_in_process("tuner", tmp_path) as server:
        MeshFile({"tuner": ServiceAddress(server.address)}).write(tmp_path / "mesh.json")
        with connect(tmp_path / "mesh.json") as mesh:
            mesh.studies.create("empty", SPEC)
            mesh.studies.create("digits", TWO)
            for trial in mesh.studies.suggest("digits", "worker", 12):
                rate, depth = (float(trial.parameters[name]) for name in ("rate", "depth"))
                mesh.studies.complete(trial.name, loss=rate * depth, speed=1 / depth)
        yield tmp_path


def test_a_study_is_drawn_into_pictures_and_pages(home: Path) -> None:
    page, picture = home / "new" / "front.html", home / "loss.png"
    assert succeeded(home, "tune", "plot", "digits", str(page)).startswith(f"{page}: pareto of studies/digits, 12")
    assert "Pareto front of digits" in page.read_text(encoding="utf-8")
    options = ("--kind", "importance", "--metric", "loss", "--json")
    done = json.loads(succeeded(home, "tune", "plot", "studies/digits", str(picture), *options))
    assert done == {"file": str(picture), "study": "studies/digits", "kind": "importance", "trials": 12}
    with Image.open(picture) as image:
        assert image.format == "PNG"


def test_values_have_the_types_of_the_space(home: Path) -> None:
    spec = StudySpec.from_json(TWO)
    with connect(home / "mesh.json") as mesh:
        found = [from_proto(spec, trial) for trial in mesh.studies.trials("digits")]
    assert [trial.number for trial in found] == list(range(1, 13))
    assert {type(trial.parameters["depth"]) for trial in found} == {int}
    batches: set[Value] = {trial.parameters["batch"] for trial in found}
    assert batches <= {16, 32, 0.5, True, "all"}
    assert {type(value) for value in batches if value in (16, 32)} <= {int}
    assert all(spec.space.problem(trial.parameters) == "" for trial in found)


def test_what_cannot_be_drawn_is_explained(home: Path) -> None:
    output = str(home / "plot.png")
    few = deepseek(home, "tune", "plot", "empty", output)
    assert few.returncode == 1
    assert "history requires 1 trials with finite objectives; there are 0" in few.stderr
    assert "FAILED_PRECONDITION: TOO_FEW_TRIALS" in few.stderr
    several = deepseek(home, "tune", "plot", "digits", output, "--kind", "history")
    assert_refused(several, "INVALID_ARGUMENT: BAD_VALUE", "metrics")
    assert "choose one of: loss, speed" in several.stderr
    assert_refused(
        deepseek(home, "tune", "plot", "digits", str(home / "plot.txt")), "INVALID_ARGUMENT: BAD_VALUE", "OUTPUT"
    )
    assert "Invalid value for '--kind'" in deepseek(home, "tune", "plot", "digits", output, "--kind", "pie").stderr
    assert not Path(output).exists()
    (home / "folder.png").mkdir()
    assert deepseek(home, "tune", "plot", "digits", str(home / "folder.png")).returncode == 2
    (home / "file").touch()
    below = deepseek(home, "tune", "plot", "digits", str(home / "file" / "plot.png"))
    assert_refused(below, "FAILED_PRECONDITION: OUTPUT_NOT_WRITABLE", "OUTPUT")
