"""Private runs in a worker process: what they report, and what they refuse."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.artifacts import Artifact
from common.errors import FailedPrecondition, MeshError
from deepseek.components import MODELS
from deepseek.data.sample import Sample
from deepseek.training import checkpoint
from deepseek.trainjob.export import export
from deepseek.trainjob.jobfile import JobFile
from deepseek.trainjob.pipeline import fit_mappings
from deepseek.trainjob.train import train
from tests.deepseek.trainjob.jobs import events
from tests.deepseek.trainjob.private_jobs import private
from tests.deepseek.trainjob.small_tasks import LABELS, TASKS


@pytest.fixture(autouse=True)
def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")


def test_a_private_run_reports_figures_of_the_evaluation_split_only(tmp_path: Path) -> None:
    path = private(tmp_path)
    train(path)
    reported = events(path)
    steps = [event for event in reported if event["kind"] == "step"]
    assert steps[-1]["step"] == 10, "two epochs of 1 / 0.2 steps"
    assert all(event["metrics"] == {} for event in steps)
    kinds = [event["kind"] for event in reported if event["kind"] in ("evaluation", "checkpoint")]
    assert kinds == ["checkpoint", "evaluation"] * 2, "nothing is reported of weights that a crash could lose"
    assert reported[-1]["metrics"]["accuracy"] >= 0


@pytest.mark.parametrize("is_private", [True, False])
def test_what_a_private_run_reports_does_not_compare_labels_of_training_data(tmp_path: Path, is_private: bool) -> None:
    changes = {} if is_private else {"privacy": None}
    path = private(tmp_path, change=lambda sample: one_label(sample) if sample.split == "train" else sample, **changes)
    train(path)
    messages = [event["message"] for event in events(path) if event["kind"] == "warning"]
    assert any("cannot learn them" in message for message in messages) != is_private


def one_label(sample: Sample) -> Sample:
    return replace(sample, values={**sample.values, "kind": LABELS[0]})


@pytest.mark.parametrize("is_private", [True, False])
def test_errors_of_a_private_run_do_not_quote_training_data(tmp_path: Path, is_private: bool) -> None:
    picture = TASKS["cnn"].spec["inputs"][0]["field"]

    def damage(sample: Sample) -> Sample:
        is_damaged = sample.split == "train"
        return replace(sample, values={**sample.values, picture: b"secret"}) if is_damaged else sample

    path = private(tmp_path, change=damage, **({} if is_private else {"privacy": None}))
    with pytest.raises(MeshError):
        train(path)
    failed = events(path)[-1]
    assert failed["kind"] == "failed"
    assert ("train-" in failed["message"]) != is_private
    assert ("details are not published" in failed["message"]) == is_private


def test_an_export_of_a_private_run_does_not_read_the_training_split(tmp_path: Path) -> None:
    path = private(tmp_path)
    train(path)
    options = {"run": "runs/r", "metrics": {}, "int8": True, "int8_max_loss": 1.0}
    exported = private(tmp_path, name="export", options={**options, "checkpoint_sha256": last_checkpoint(path)})
    job = JobFile.open(exported)
    for shard in job.manifest.shards("train"):
        job.store.delete("default", shard.sha256)
    export(exported)


def last_checkpoint(path: Path) -> str:
    """The digest of the last checkpoint of a run."""
    artifact = next(event for event in events(path)[::-1] if event["kind"] == "checkpoint")["artifact"]
    return Artifact.from_json(artifact).sha256


def trained_weights(path: Path) -> dict[str, Tensor]:
    """The weights of the last checkpoint of a run."""
    store = JobFile.open(path).store
    weights: dict[str, Tensor] = checkpoint.loads(store.read("default", last_checkpoint(path)))["model"]
    return weights


def test_statistics_of_columns_are_those_of_the_evaluation_split(tmp_path: Path) -> None:
    path = private(tmp_path, "tabular", params={})
    train(path)
    weights = trained_weights(path)
    test, training = (
        [sample.values["size"] for sample in TASKS["tabular"].make(number, split, seed)]
        for number, split, seed in ((12, "test", 2), (40, "train", 1))
    )
    assert float(weights["standardise.count"]) == len(test)
    assert float(weights["standardise.mean"][0]) == pytest.approx(np.mean(test), rel=1e-5)
    assert float(weights["standardise.variance"][0]) == pytest.approx(np.var(test), rel=1e-3)
    assert float(weights["standardise.mean"][0]) != pytest.approx(np.mean(training), rel=1e-5)


def test_recordings_are_learned_with_group_normalization(tmp_path: Path) -> None:
    path = private(tmp_path, "audio_classifier")
    train(path)
    assert float(trained_weights(path)["standardise_statistics.count"]) == 12


@pytest.mark.parametrize(("task", "name"), [("tabular", "standardise.mean"), ("cnn", "trunk.0.1.running_mean")])
def test_a_run_that_starts_from_a_version_keeps_its_statistics(task: str, name: str, tmp_path: Path) -> None:
    public = private(tmp_path, task, name="public", params={}, privacy=None)
    train(public)
    weights = trained_weights(public)
    options: dict[str, Any] = {"run": "runs/r", "metrics": {"loss": 1.0}, "int8": False, "int8_max_loss": 0.5}
    options |= {"checkpoint_sha256": last_checkpoint(public)}
    exported = private(tmp_path, task, name="export", params={}, privacy=None, options=options)
    version = export(exported).sha256
    path = private(tmp_path, task, params={}, init="models/m/versions/1", options={"init_manifest_sha256": version})
    train(path)
    own = trained_weights(path)
    assert torch.equal(own[name], weights[name])
    trained = next(key for key in own if key.endswith("weight"))
    assert not torch.equal(own[trained], weights[trained])


class Choosing(nn.Module):
    """Looks at values, so the gradients of single examples cannot be computed together."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12 * 12 * 3, 3)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.linear(image.flatten(1).float())
        return logits if image.sum() > 0 else -logits


@pytest.mark.parametrize(
    ("task", "changes", "reason", "field"),
    [
        ("cnn", {"model": {"name": "choosing"}, "params": {}}, "NOT_PRIVATE_MODEL", "spec.model"),
        ("cnn", {"params": {}}, "NOT_PRIVATE_MODEL", "spec.model"),
        ("audio_classifier", {"params": {}}, "NOT_PRIVATE_MODEL", "spec.model"),
        ("cnn", {"optimizer": {"name": "lbfgs"}}, "NOT_PRIVATE_OPTIMIZER", "spec.optimizer"),
    ],
)
def test_what_is_not_private_fails_before_anything_is_reported_of_the_model(
    task: str, changes: dict[str, Any], reason: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODELS, "_registered", {"choosing": Choosing})
    path = private(tmp_path, task, **changes)
    with pytest.raises(FailedPrecondition):
        train(path)
    reported = events(path)
    assert (reported[-1]["kind"], reported[-1]["reason"], reported[-1]["field"]) == ("failed", reason, field)
    assert not {"evaluation", "checkpoint"} & {event["kind"] for event in reported}


def test_an_encoder_that_learns_is_refused_when_the_spec_is_resolved(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="words would learn from the private training split") as caught:
        private(tmp_path, "text_classifier", params={})
    assert (caught.value.reason, caught.value.field) == ("NOT_PRIVATE_ENCODER", "spec.inputs[0].encoder.name")


def test_a_version_whose_encoder_has_learned_differently_does_not_help(tmp_path: Path) -> None:
    path = private(tmp_path, "text_classifier", params={}, init="models/m/versions/1")
    with pytest.raises(FailedPrecondition) as caught:
        fit_mappings(JobFile.open(path))
    assert (caught.value.reason, caught.value.field) == ("NOT_PRIVATE_ENCODER", "spec.inputs[0].encoder")


def test_an_evaluation_split_is_required(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="requires an evaluation split") as caught:
        private(tmp_path, eval_split="nowhere")
    assert caught.value.field == "spec.eval_split"
