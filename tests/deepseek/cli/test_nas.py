"""`deepseek nas`: from a data set of images to a registered network, with runs on a mesh."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepseek.client import connect
from deepseek.models.manifest import ModelManifest
from deepseek.nas.conv_space import ConvSpace, StageChoices
from deepseek.nas.mesh_training import image_search
from deepseek.nas.trainings import Training
from tests.deepseek.cli.commands import assert_refused, deepseek, succeeded
from tests.deepseek.trainjob.small_tasks import LABELS, TASKS
from tests.harness.mesh import embedded_mesh

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SEARCH = (
    *("nas", "shapes", "--max-parameters", "20000", "--pool", "6", "--population", "2", "--generations", "1"),
    *("--epochs", "2", "--finalists", "1", "--model", "shapes"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """DEEPSEEK_HOME of a mesh with a data set of images."""
    home = tmp_path_factory.mktemp("mesh") / "home"
    task = TASKS["cnn"]
    with embedded_mesh(home):
        with connect(home / "mesh.json") as mesh:
            mesh.datasets.upload("shapes", task.fields, [*task.make(48, "train", 1), *task.make(12, "test", 2)])
        yield home


def test_a_search_registers_its_best_network_and_repeats_no_training(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = deepseek(home, *SEARCH, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (finalist,) = result["finalists"]
    assert finalist["parameters"] <= 20_000
    assert result["model_version"] == "models/shapes/versions/1"
    with connect(home / "mesh.json") as mesh:
        manifest: ModelManifest = mesh.models.manifest(mesh.models.version(result["model_version"]))
        runs = {run.name: run for run in mesh.runs.list()}
    assert manifest.run == result["run"]
    assert {name: manifest.params[name] for name in ("stem", "stages", "head")} == finalist["spec"]
    assert [one.variant for one in manifest.measurements] == ["fp32", "int8"]
    assert len(runs) == result["trainings"]
    assert sorted(run.spec.epochs for run in runs.values()) == [1, 1, 2]  # one of two networks is in the second rung
    assert {tag.value for run in runs.values() for tag in run.tags} == {"nas"}
    assert all(run.spec.eval_share for run in runs.values())

    assert_it_serves(home, result["model_version"])
    again = deepseek(home, *SEARCH, "--plot", "plots/search.html")
    assert again.returncode == 0, again.stderr
    assert f"the best one is {result['run']}" in again.stdout
    assert "Architecture search for shapes" in Path("plots/search.html").read_text(encoding="utf-8")
    Path("shapes.nas.jsonl").unlink()  # without its results, the search still finds its runs
    assert deepseek(home, *SEARCH, "--results", "other.jsonl").returncode == 0
    with connect(home / "mesh.json") as mesh:
        assert {run.name for run in mesh.runs.list()} == set(runs)


def assert_it_serves(home: Path, version: str) -> None:
    """Serves a version that a search has registered, predicts with it, and evaluates it, as any other model."""
    model = version.removeprefix("models/").replace("/versions/", ":")
    succeeded(home, "model", "load", model)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save("picture.png")
    answer = json.loads(succeeded(home, "predict", model, "image=picture.png", "--json"))
    assert answer["prediction"] in LABELS
    evaluated = json.loads(succeeded(home, "model", "evaluate", model, "--json"))
    assert 0 <= evaluated["metrics"]["accuracy"] <= 1


def test_a_run_that_fails_is_a_training_without_accuracy(home: Path) -> None:
    space = ConvSpace(stages=(StageChoices(depths=(1,), widths=(4,)),))
    spec = space.sample(np.random.default_rng(0))
    with connect(home / "mesh.json") as mesh:
        _, training = image_search(mesh, "shapes", space=space)
        run_spec = {**training.run_spec, "optimizer": {"name": "sgd", "params": {"lr": 1e30}}, "batch_size": 4}
        failing = replace(training, run_spec=run_spec)
        [(_, accuracy)] = failing([Training(spec, 10, 0)])
    assert math.isnan(accuracy)


def test_a_data_set_that_does_not_exist_is_refused(home: Path) -> None:
    done = deepseek(home, "nas", "nothing")
    assert done.returncode == 1
    assert "NOT_FOUND" in done.stderr
    assert "Traceback" not in done.stderr


def test_limits_that_no_network_meets_are_refused(home: Path) -> None:
    done = deepseek(home, "nas", "shapes", "--max-parameters", "10")
    assert done.returncode == 1
    assert "FAILED_PRECONDITION: NOTHING_FITS" in done.stderr
    assert "raise max_parameters or max_macs" in " ".join(done.stderr.split())


def test_a_model_name_is_checked_before_the_search(tmp_path: Path) -> None:
    assert_refused(deepseek(tmp_path, "nas", "shapes", "--model", "A B"), "INVALID_ARGUMENT: BAD_NAME", "--model")


def test_without_optuna_the_command_says_what_to_install() -> None:
    program = "import sys; sys.modules['optuna'] = None; from deepseek.cli.app import main; main()"
    command = [sys.executable, "-c", program, "nas", "shapes"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "SEARCH_MISSING" in done.stderr
    assert "pip install 'deepseek-mesh[search,training]'" in " ".join(done.stderr.split())
