"""The coordinator's evaluator as a process: figures of arrays, and exported model versions."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.artifacts import Artifact, open_store
from common.errors import InvalidArgument
from common.processes import python
from deepseek.federated import worker_link
from deepseek.federated.arrays import from_bytes, to_bytes
from deepseek.federated.evaluator import Evaluator
from deepseek.federated.worker import Worker
from deepseek.models.manifest import ModelManifest
from deepseek.training import checkpoint
from tests.deepseek.federated.pictures import FIELDS, LABELS, write_folder
from tests.deepseek.federated.runs import STORE, Prepared, prepared, request
from tests.deepseek.federated.started import Started
from tests.deepseek.trainjob.small_tasks import TASKS


def job(run: Prepared) -> dict[str, str]:
    """Where the reference data is."""
    options = json.loads(run.path.read_text())
    return {name: options[name] for name in STORE}


def test_rounds_end_in_a_model_version_like_that_of_a_run(tmp_path: Path) -> None:
    run = prepared(tmp_path / "run")
    data = write_folder(tmp_path / "pictures", range(200))
    worker, model = Worker(tmp_path), from_bytes(run.initial)
    for number in (1, 2):
        header = request(run.recipe, data, round=number, fit={"local_epochs": 4})
        update = from_bytes(worker(header, to_bytes(model))[1])
        model = {name: model[name] + update[name] for name in model}
    folder = tmp_path / "evaluator"
    started = Started(python("deepseek.federated.evaluator", str(folder)))

    def call(kind: str, arrays: bytes, **more: object) -> dict[str, object]:
        header = {"kind": kind, "recipe": run.recipe.to_json(), "job": job(run), **more}
        reply, nothing = worker_link.call(folder, header, arrays, start=started)
        worker_link.raise_if_error(reply)
        assert nothing == b""
        return reply

    with started:
        before, after = (call("evaluate", arrays) for arrays in (run.initial, to_bytes(model)))
        assert before["num_examples"] == 12
        assert after["metrics"]["loss"] < before["metrics"]["loss"]  # type: ignore[index]
        name = "federations/f/runs/r"
        exported = call("export", to_bytes(model), export={"run": name, "metrics": after["metrics"]})
    store = open_store(f"file://{tmp_path / 'run' / 'store'}")
    manifest = ModelManifest.from_bytes(store.read("default", Artifact.from_json(str(exported["manifest"])).sha256))
    assert (manifest.model, manifest.run, manifest.outputs[0].labels) == ("cnn", name, LABELS)
    assert manifest.metrics == after["metrics"]
    assert exported["metrics"]["test/accuracy"] == pytest.approx(after["metrics"]["accuracy"])  # type: ignore[index]
    assert manifest.weights is not None
    weights = checkpoint.loads(store.read("default", manifest.weights.sha256))["model"]
    for key, value in model.items():
        np.testing.assert_array_equal(weights[key].numpy(), value)
    assert not list(folder.glob("job-*"))


def test_statistics_of_the_reference_data_are_part_of_the_version(tmp_path: Path) -> None:
    task = TASKS["tabular"]
    run = prepared(tmp_path / "run", fields=task.fields, make=task.make, **task.spec)
    header = {"kind": "export", "recipe": run.recipe.to_json(), "job": job(run), "export": {"run": "runs/r"}}
    reply, _ = Evaluator(tmp_path)(header, run.initial)
    store = open_store(f"file://{tmp_path / 'run' / 'store'}")
    manifest = ModelManifest.from_bytes(store.read("default", Artifact.from_json(reply["manifest"]).sha256))
    assert manifest.weights is not None
    weights = checkpoint.loads(store.read("default", manifest.weights.sha256))["model"]
    assert float(weights["standardise.count"]) == 40


def test_a_run_starts_from_an_exported_version(tmp_path: Path) -> None:
    run = prepared(tmp_path / "run")
    header = {"kind": "export", "recipe": run.recipe.to_json(), "job": job(run), "export": {"run": "runs/r"}}
    reply, _ = Evaluator(tmp_path)(header, to_bytes({name: one + 1 for name, one in from_bytes(run.initial).items()}))
    first = Artifact.from_json(reply["manifest"]).sha256
    from deepseek.federated.prepare import prepare
    from tests.deepseek.federated.pictures import CNN, samples
    from tests.deepseek.trainjob.jobs import events, write_job

    spec = {**CNN, "init": "models/m/versions/1", "freeze": ["trunk.0."]}
    path = write_job(
        tmp_path / "run", name="second", spec=spec, fields=FIELDS, make=samples, init_manifest_sha256=first
    )
    recipe = prepare(path)
    store = open_store(f"file://{tmp_path / 'run' / 'store'}")
    initial = from_bytes(store.read("default", Artifact.from_json(events(path)[-1]["arrays"]).sha256))
    for name, value in initial.items():
        np.testing.assert_array_equal(value, from_bytes(run.initial)[name] + 1)
    assert recipe.fixed, "the frozen weights are those of the version"
    data = write_folder(tmp_path / "pictures", range(32))
    _, update = Worker(tmp_path)(request(recipe, data), to_bytes(initial))
    assert from_bytes(update, recipe.shapes)


def test_bad_requests_name_the_field(tmp_path: Path) -> None:
    run = prepared(tmp_path / "run")
    good = {"kind": "evaluate", "recipe": run.recipe.to_json(), "job": job(run)}
    evaluator = Evaluator(tmp_path)
    for change, field in (
        ({"kind": "fit"}, "kind"),
        ({"recipe": 3}, "recipe"),
        ({"job": {"dir": "/"}}, "job.dir"),
        ({"kind": "export", "export": {"path": 1}}, "export.path"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            evaluator({**good, **change}, run.initial)
        assert caught.value.field == field
