"""An export as files: equal bytes, dynamic shapes, true metrics, and the better variant chosen by measurement."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common.artifacts import Artifact, open_store
from common.errors import FailedPrecondition
from deepseek.models.manifest import ModelManifest
from deepseek.training import checkpoint, onnx_files
from deepseek.training.jobfile import JobFile
from deepseek.training.packaging import FirstMetric, Variant, choose, package
from deepseek.training.pipeline import build_model, fit_mappings, open_split
from tests.deepseek.training.jobs import events, write_job


def write_export(folder: Path, name: str, *, int8: bool = False, metrics: Mapping[str, float] | None = None) -> Path:
    """A job that exports the spec's model as its seed makes it."""
    plain = JobFile.open(write_job(folder, name=f"{name}-model"))
    weights = checkpoint.dumps({"model": dict(build_model(plain.spec).state_dict())})
    sha256 = plain.store.put("default", weights, checkpoint.MEDIA_TYPE).sha256
    options: dict[str, Any] = {"run": "runs/r", "metrics": metrics or {"loss": 3.5}, "int8": int8, "int8_max_loss": 0.5}
    return write_job(folder, name=name, checkpoint_sha256=sha256, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def exported(folder: Path) -> tuple[JobFile, ModelManifest]:
    """An export with both variants."""
    path = write_export(folder, "both", int8=True)
    artifact = package(path)
    job = JobFile.open(path)
    assert Artifact.from_json(events(path)[-1]["manifest"]) == artifact
    return job, ModelManifest.from_bytes(job.store.read("default", artifact.sha256))


def test_a_second_export_makes_the_same_files(folder: Path, exported: tuple[JobFile, ModelManifest]) -> None:
    artifact = package(write_export(folder, "again", int8=True))
    again = ModelManifest.from_bytes(open_store(f"file://{folder / 'store'}").read("default", artifact.sha256))
    assert again.files == exported[1].files


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
    for measurement, file in zip(manifest.measurements, manifest.files, strict=True):
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


@pytest.mark.parametrize(
    ("latency_ms", "value", "served"),
    [(0.5, 0.99, "int8"), (0.5, 0.94, "fp32"), (1.5, 0.99, "fp32"), (0.5, 0.951, "int8")],
)
def test_int8_is_served_only_if_it_is_faster_and_as_good(
    exported: tuple[JobFile, ModelManifest], latency_ms: float, value: float, served: str
) -> None:
    fp32 = Variant("fp32", Path("a"), 1.0, 1.0)
    int8 = Variant("int8", Path("b"), latency_ms, value)
    assert choose([fp32, int8], FirstMetric(exported[0]), max_loss=0.05).name == served


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_with_any_figure_that_is_not_finite_is_not_exported(tmp_path: Path, value: float) -> None:
    path = write_export(tmp_path, "diverged", metrics={"next_token_accuracy": 0.9, "perplexity": value})
    with pytest.raises(FailedPrecondition, match="perplexity of runs/r is") as caught:
        package(path)
    assert caught.value.reason == "METRIC_NOT_FINITE"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_without_a_usable_metric_is_not_chosen_from(
    exported: tuple[JobFile, ModelManifest], value: float
) -> None:
    variants = [Variant("fp32", Path("a"), 1.0, value), Variant("int8", Path("b"), 0.5, 0.9)]
    with pytest.raises(FailedPrecondition, match="next_token_accuracy of the fp32 file is") as caught:
        choose(variants, FirstMetric(exported[0]), max_loss=0.05)
    assert caught.value.reason == "METRIC_NOT_FINITE"


def test_sessions_are_timed_in_turn(exported: tuple[JobFile, ModelManifest]) -> None:
    job, _ = exported
    sessions = [onnx_files.open_session(job.directory / name) for name in ("model.onnx", "model.onnx")]
    first, second = onnx_files.median_latencies_ms(sessions, [{"text": np.ones((1, 6), np.int64)}], num_rounds=100)
    assert first == pytest.approx(second, rel=0.5)
