"""Every built-in model from a data set to a served version that answers raw values. `num_classes`, `vocabulary` and
the like are left out of the specs, because the data determines them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.artifacts import Artifact
from common.errors import InvalidArgument
from deepseek.components import MODELS
from deepseek.data.manifest import Field
from deepseek.models.inputs import encode_inputs
from deepseek.models.manifest import ModelManifest
from deepseek.trainjob import onnx_files
from deepseek.trainjob.export import export
from deepseek.trainjob.jobfile import JobFile
from deepseek.trainjob.pipeline import fit_mappings, model_params
from deepseek.trainjob.train import train
from services.inference.cache import FileCache
from services.inference.engine import Engine
from services.inference.opener import VersionOpener
from tests.deepseek.trainjob.jobs import events, write_job
from tests.deepseek.trainjob.small_tasks import KIND, LABELS, TASKS, Task, classify, row, samples


@pytest.fixture(autouse=True)
def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")


def job(folder: Path, task: Task, **options: Any) -> Path:
    return write_job(folder, spec=task.spec, fields=task.fields, make=task.make, **options)


def test_every_built_in_model_has_a_task() -> None:
    others = {"character_lm", "image_question", "resnet50"}  # tests of their own; resnet50 is resnet18 with more blocks
    assert {name.split()[0] for name in TASKS} == set(MODELS.names()) - others


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_model_learns_and_its_served_version_answers_raw_values(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TASKS[name]
    with monkeypatch.context() as patch:  # before it is trained, a built-in model is not converted, only traced
        patch.delattr(onnx_files, "convert")
        train(job(tmp_path, task, name="run"))
    reported = events(tmp_path / "run" / "job.json")
    assert "warning" not in [event["kind"] for event in reported]
    finished = reported[-1]
    assert finished["kind"] == "finished"
    stored = [event["artifact"] for event in reported if event["kind"] == "checkpoint"]
    weights = Artifact.from_json(stored[-1]).sha256
    options = {"run": "runs/r", "metrics": finished["metrics"], "int8": True, "int8_max_loss": 0.01}
    path = job(tmp_path, task, name="export", checkpoint_sha256=weights, **options)
    opened = JobFile.open(path)
    version = export(path).sha256
    manifest = ModelManifest.from_bytes(opened.store.read("default", version))
    assert [one.variant for one in manifest.measurements] == ["fp32", "int8"]
    assert manifest.measurements[0].value == pytest.approx(finished["metrics"][manifest.measurements[0].metric])
    if task.spec.get("target") != {"field": "kind"}:
        return
    assert finished["metrics"]["accuracy"] > 0.9
    assert manifest.outputs[0].labels == LABELS
    opener = VersionOpener(opened.store, FileCache(opened.store, tmp_path / "cache"), Engine)
    served = opener.open("default", "model", 1, version).engine
    for sample in task.make(6, "new", 9):
        raw = {one.name: sample.values[one.field] for one in manifest.inputs}
        [(_, logits)] = served.run(encode_inputs(manifest, raw))
        assert LABELS[int(np.argmax(logits[0]))] == sample.values["kind"]


def params_of(folder: Path, task: Task) -> dict[str, Any]:
    opened = JobFile.open(job(folder, task))
    return model_params(opened.spec, fit_mappings(opened))


def test_parameters_that_the_data_determines_may_be_left_out(tmp_path: Path) -> None:
    expected = {
        "tabular": {"columns": {"size": 0, "count": 0, "colour": 3}, "num_classes": 3, "width": 16},
        "text_classifier": {"vocabulary": 32, "num_classes": 3, "width": 8},
        "audio_classifier": {"num_classes": 3, "sample_rate": 2000, "width": 4, "num_mels": 16},
        "transformer_lm": {"vocabulary": 32, "width": 16, "depth": 1, "num_heads": 2},
    }
    for name, params in expected.items():
        folder = tmp_path / name
        folder.mkdir()
        assert params_of(folder, TASKS[name]) == params


def test_a_number_to_predict_is_one_class_and_given_parameters_are_kept(tmp_path: Path) -> None:
    spec = classify("tabular", [{"field": "count"}], width=7) | {"target": {"field": "size"}, "loss": {"name": "mse"}}
    found = params_of(tmp_path, Task(TASKS["tabular"].fields, samples(row), spec))
    assert found == {"columns": {"count": 0}, "num_classes": 1, "width": 7}


@pytest.mark.parametrize(
    ("fields", "inputs", "problem"),
    [
        ((Field("note", "text"), KIND), [{"field": "note"}], "but 'note' is encoded as int64"),
        ((Field("count", "integer", repeated=True), KIND), [{"field": "count"}], r"must have one value per row, \[B\]"),
    ],
)
def test_what_is_no_column_is_refused_before_the_first_step(
    fields: tuple[Field, ...], inputs: list[dict[str, Any]], problem: str, tmp_path: Path
) -> None:
    values = {"note": "a", "count": [1, 2]}
    make = samples(lambda rng, kind: {fields[0].name: values[fields[0].name]})
    path = job(tmp_path, Task(fields, make, classify("tabular", inputs)))
    with pytest.raises(InvalidArgument, match=problem) as caught:
        train(path)
    assert caught.value.field.startswith("spec.inputs")
    assert [event["kind"] for event in events(path)] == ["failed"]
