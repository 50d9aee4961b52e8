"""An export as files: equal bytes, dynamic shapes, true metrics, and the better variant chosen by measurement."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from common.artifacts import Artifact, open_store
from common.errors import FailedPrecondition
from deepseek.components import LOSSES, MODELS
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.models.manifest import ModelManifest
from deepseek.models.probes import Probes
from deepseek.processor import instruction_set
from deepseek.training import checkpoint
from deepseek.trainjob import onnx_files
from deepseek.trainjob.export import ComparisonMetric, calibration_split, export
from deepseek.trainjob.jobfile import JobFile
from deepseek.trainjob.pipeline import build_model, fit_mappings, load_initial_weights, open_split, open_splits
from tests.deepseek.trainjob.jobs import events, write_job


def write_export(
    folder: Path, name: str, *, int8: bool = False, metrics: Mapping[str, float] | None = None, **task: Any
) -> Path:
    """A job that exports the spec's model as its seed makes it."""
    plain = JobFile.open(write_job(folder, name=f"{name}-model", **task))
    weights = checkpoint.dumps({"model": dict(build_model(plain.spec).state_dict())})
    sha256 = plain.store.put("default", weights, checkpoint.MEDIA_TYPE).sha256
    options: dict[str, Any] = {"run": "runs/r", "metrics": metrics or {"loss": 3.5}, "int8": int8, "int8_max_loss": 0.5}
    return write_job(folder, name=name, checkpoint_sha256=sha256, **options, **task)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def exported(folder: Path) -> tuple[JobFile, ModelManifest]:
    """An export with both variants."""
    path = write_export(folder, "both", int8=True)
    artifact = export(path)
    job = JobFile.open(path)
    assert Artifact.from_json(events(path)[-1]["manifest"]) == artifact
    return job, ModelManifest.from_bytes(job.store.read("default", artifact.sha256))


def test_a_second_export_makes_the_same_files(folder: Path, exported: tuple[JobFile, ModelManifest]) -> None:
    artifact = export(write_export(folder, "again", int8=True))
    again = ModelManifest.from_bytes(open_store(f"file://{folder / 'store'}").read("default", artifact.sha256))
    assert again.files == exported[1].files


def test_the_weights_of_a_version_are_a_file_that_no_run_deletes(exported: tuple[JobFile, ModelManifest]) -> None:
    job, manifest = exported
    model = build_model(job.spec)
    state = checkpoint.model_state(model)
    own = job.store.put("default", checkpoint.dumps(state), checkpoint.MEDIA_TYPE)
    assert manifest.weights is not None
    assert manifest.weights.sha256 not in (own.sha256, job.checkpoint_sha256)
    initial = build_model(replace(job.spec, seed=1))
    load_initial_weights(replace(job, init=manifest), initial)
    for name, value in initial.state_dict().items():
        assert torch.equal(value, state["model"][name])


def test_no_path_of_this_machine_is_in_a_file(exported: tuple[JobFile, ModelManifest]) -> None:
    job, manifest = exported
    for file in manifest.files:
        content = job.store.read("default", file.sha256)
        assert not re.search(rb"\.py\b|site-packages", content)
        assert str(Path.cwd()).encode() not in content


def test_the_file_computes_what_the_model_does_for_any_batch(exported: tuple[JobFile, ModelManifest]) -> None:
    job, _ = exported
    model = build_model(job.spec)
    model.eval()
    session = onnx_files.open_session(job.directory / "model.onnx")
    for batch_size in (1, 7):
        text = torch.randint(0, 32, (batch_size, 6))
        with torch.inference_mode():
            expected = model(text).numpy()
        (found,) = session.run(None, {"text": text.numpy()})
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_measured_metric_is_that_of_the_file_on_the_whole_evaluation_split(
    exported: tuple[JobFile, ModelManifest],
) -> None:
    job, manifest = exported
    dataset = open_split(job, "test", fit_mappings(job))
    for measurement, file in zip(manifest.measurements, manifest.candidates, strict=True):
        session = onnx_files.open_session(job.directory / file.name)
        right = total = 0
        for i in range(len(dataset)):
            text = dataset[i]["text"]
            (scores,) = session.run(None, {"text": text[None]})
            right += int((scores[0, :-1].argmax(-1) == text[1:]).sum())
            total += len(text) - 1
        assert measurement.value == right / total
        assert measurement.latency_ms > 0


def test_the_manifest_says_how_to_feed_the_model(exported: tuple[JobFile, ModelManifest]) -> None:
    _, manifest = exported
    (text,) = manifest.inputs
    assert (text.datatype, text.shape, text.field) == ("INT64", (-1, 6), "line")
    assert text.encoder is not None
    assert text.encoder.name == "characters"
    assert len(text.encoder.state["tokens"]) == 25
    assert manifest.outputs[0].shape == (-1, 6, 32)
    assert (manifest.run, manifest.dataset_version) == ("runs/r", "datasets/lines/versions/1")


class Doubling(nn.Module):
    """Computes something else when it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        scores = text.float() * self.weight
        return scores if torch.compiler.is_exporting() else 2 * scores


def test_a_graph_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        onnx_files.export_onnx(
            Doubling().eval(), {"text": torch.ones(2, 3, dtype=torch.int64)}, [], tmp_path / "m.onnx"
        )
    assert caught.value.reason == "EXPORT_DIFFERS"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_with_any_figure_that_is_not_finite_is_not_exported(tmp_path: Path, value: float) -> None:
    path = write_export(tmp_path, "diverged", metrics={"next_token_accuracy": 0.9, "perplexity": value})
    with pytest.raises(FailedPrecondition, match="perplexity of runs/r is") as caught:
        export(path)
    assert caught.value.reason == "METRIC_NOT_FINITE"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_without_a_usable_metric_is_not_exported(
    tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ComparisonMetric, "compute", lambda *_: value)
    with pytest.raises(FailedPrecondition, match="next_token_accuracy of the fp32 file is") as caught:
        export(write_export(tmp_path, "diverged"))
    assert caught.value.reason == "METRIC_NOT_FINITE"


def test_sessions_are_timed_in_turn(exported: tuple[JobFile, ModelManifest]) -> None:
    job, _ = exported
    sessions = [onnx_files.open_session(job.directory / name) for name in ("model.onnx", "model.onnx")]
    first, second = onnx_files.median_latencies_ms(sessions, [{"text": np.ones((1, 6), np.int64)}], num_rounds=100)
    assert first == pytest.approx(second, rel=0.5)


def test_the_figures_of_a_version_are_those_of_one_file(exported: tuple[JobFile, ModelManifest]) -> None:
    job, manifest = exported
    fp32, int8 = manifest.measurements
    finished = events(job.directory / "job.json")[-1]
    assert finished["metrics"] == {"test/loss": 3.5, "test/next_token_accuracy": fp32.value}
    assert int8.loss == fp32.value - int8.value
    assert (fp32.loss, manifest.accepted_loss) == (0.0, 0.5)
    assert {one.instruction_set for one in manifest.measurements} == {instruction_set()}


def test_neither_calibration_nor_training_sees_what_is_held_out(tmp_path: Path) -> None:
    path = write_export(tmp_path, "held-out", spec={"eval_share": 0.5}, int8=True)
    job = JobFile.open(path)
    mappings = fit_mappings(job)
    training, held_out = open_splits(job, mappings)
    assert held_out is not None
    calibration = calibration_split(job, mappings)
    assert set(calibration.keys) == set(training.keys)
    assert not set(calibration.keys) & set(held_out.keys)
    export(path)
    assert set(events(path)[-1]["metrics"]) == {"held_out/loss", "held_out/next_token_accuracy"}


def test_a_version_carries_probes_that_its_files_answer_as_recorded(exported: tuple[JobFile, ModelManifest]) -> None:
    job, manifest = exported
    probes = Probes.from_bytes(job.store.read("default", manifest.file(manifest.probes).sha256))
    assert [file.name for file in manifest.candidates] == ["model.onnx", "model.int8.onnx"]
    assert len(probes) == 12
    plain = onnx_files.open_session(job.directory / "model.onnx", optimized=False)
    for request, expected in zip(probes.requests(), probes.outputs["output"], strict=True):
        np.testing.assert_array_equal(plain.run(None, request)[0], expected)
    for measurement, file in zip(manifest.measurements, manifest.candidates, strict=True):
        session = onnx_files.open_session(job.directory / file.name)
        found = probes.disagreement(lambda request, session=session: session.run(None, request), [])  # type: ignore[misc]
        assert found == measurement.disagreement
    fp32, int8 = manifest.measurements
    assert fp32.disagreement is not None
    assert int8.disagreement is not None
    assert fp32.disagreement < 1e-5 < int8.disagreement < 0.5


def test_weights_of_a_quantized_file_have_seven_bits(exported: tuple[JobFile, ModelManifest]) -> None:
    graph = onnx.load(exported[0].directory / "model.int8.onnx").graph
    weights = [onnx.numpy_helper.to_array(one) for one in graph.initializer if one.data_type == onnx.TensorProto.INT8]
    matrices = [weight for weight in weights if weight.ndim > 1]
    assert matrices
    assert all(np.abs(weight.astype(int)).max() <= 64 for weight in matrices)


NUMBERS = (Field("row", "number", repeated=True), Field("sum", "number"))
SUM_OF_ROWS: dict[str, Any] = {
    "loss": {"name": "mse"},
    "metrics": [],
    "inputs": [{"field": "row", "input": "row"}],
    "target": {"field": "sum"},
}


def rows(num_samples: int, split: str, seed: int, *, length: int = 13) -> list[Sample]:
    """Lists of numbers, and their sums."""
    values = np.random.default_rng(seed).normal(size=(num_samples, length))
    return [Sample(f"{split}-{i}", split, {"row": row.tolist(), "sum": row.sum()}) for i, row in enumerate(values)]


def uneven_rows(num_samples: int, split: str, seed: int) -> list[Sample]:
    """Same as `rows`, with a list in the middle that is one value shorter."""
    samples = rows(num_samples, split, seed)
    samples[num_samples // 2].values["row"].pop()
    return samples


class Columns(nn.Module):
    """Takes exactly 13 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(13, 1)

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        return self.layer(row).squeeze(-1)  # type: ignore[no-any-return]


class Total(nn.Module):
    """Accepts lists of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        return (row * self.weight).sum(1)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """`columns` and `total` as names of models."""
    monkeypatch.setattr(MODELS, "_registered", {"columns": Columns, "total": Total})


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(("model", "length"), [("columns", 13), ("total", -1)])
@pytest.mark.parametrize("int8", [False, True])
def test_a_list_of_numbers_is_taken_in_the_length_that_the_model_takes(
    model: str, length: int, int8: bool, tmp_path: Path
) -> None:
    spec = SUM_OF_ROWS | {"model": {"name": model}}
    path = write_export(tmp_path, model, int8=int8, spec=spec, fields=NUMBERS, make=rows)
    manifest = ModelManifest.from_bytes(JobFile.open(path).store.read("default", export(path).sha256))
    assert manifest.inputs[0].shape == (-1, length)
    assert len(manifest.candidates) == 1 + int8


@pytest.mark.usefixtures("models")
def test_a_sample_that_a_fixed_length_does_not_fit_is_named(tmp_path: Path) -> None:
    spec = SUM_OF_ROWS | {"model": {"name": "columns"}}
    path = write_export(tmp_path, "columns", spec=spec, fields=NUMBERS, make=uneven_rows)
    with pytest.raises(
        FailedPrecondition, match="takes exactly 13 values of 'row', but the sample 'test-6' has 12"
    ) as caught:
        export(path)
    assert caught.value.reason == "EXPORT_UNSUPPORTED"


class TwoOutputs(nn.Module):
    """Scores in a dict, with a second output."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(32, 32)

    def forward(self, text: torch.Tensor) -> dict[str, torch.Tensor]:
        """text: [B, 6] -> [B, 6, 32]."""
        scores = self.table(text)
        return {"best": scores.argmax(-1), "scores": scores}


def loss_of_scores(outputs: Mapping[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs["scores"].flatten(0, 1), target.flatten())


def test_several_outputs_are_packaged_and_measured_by_the_runs_own_loss(tmp_path: Path) -> None:
    MODELS.register("two_outputs", TwoOutputs)
    LOSSES.register("loss_of_scores", lambda: loss_of_scores)
    spec = {"model": {"name": "two_outputs"}, "loss": {"name": "loss_of_scores"}, "metrics": []}
    path = write_export(tmp_path, "several", spec=spec)
    artifact = export(path)
    manifest = ModelManifest.from_bytes(open_store(f"file://{tmp_path / 'store'}").read("default", artifact.sha256))
    assert [(one.name, one.datatype, one.shape) for one in manifest.outputs] == [
        ("best", "INT64", (-1, 6)),
        ("scores", "FP32", (-1, 6, 32)),
    ]
    job = JobFile.open(path)
    dataset, model = open_split(job, "test", fit_mappings(job)), build_model(job.spec)
    batch = dataset.collate([dataset[i] for i in range(len(dataset))])
    with torch.no_grad():
        expected = loss_of_scores(model(batch["text"]), batch["target"]).item()
    assert manifest.measurements[0].metric == "loss"
    assert manifest.measurements[0].value == pytest.approx(expected, rel=1e-5)
