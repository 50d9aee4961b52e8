"""Checks of a model before the first step of a session."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.artifacts import open_store
from common.errors import FailedPrecondition, InvalidArgument
from deepseek.components import MODELS, OPTIMIZERS
from deepseek.data.sample import Sample
from deepseek.training import checkpoint
from deepseek.training.trainer import MixedPrecisionTrainer
from deepseek.trainjob.jobfile import JobFile
from deepseek.trainjob.pipeline import fit_mappings, open_evaluation, open_split, open_splits
from deepseek.trainjob.train import train
from tests.deepseek.trainjob.jobs import events, write_job
from tests.deepseek.trainjob.small_tasks import TASKS


class Table(nn.Module):
    """Scores of the next letter from a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(32, 32)

    def forward(self, text: Tensor) -> Tensor:
        """text: [B, 6] -> [B, 6, 32]."""
        scores: Tensor = self.table(text)
        return scores


class Branching(Table):
    """Cannot be exported."""

    def forward(self, text: Tensor) -> Tensor:
        scores = super().forward(text)
        return scores if text.sum() > 0 else -scores


class Spectral(Table):
    """Cannot be converted to ONNX."""

    def forward(self, text: Tensor) -> Tensor:
        scores = super().forward(text)
        return scores + torch.linalg.eigvals(scores[..., :6]).abs().sum()


class ByName(Table):
    """Accepts inputs of any names."""

    def forward(self, **columns: Tensor) -> Tensor:
        return super().forward(columns["text"])


class Lazy(Table):
    """Takes its sizes from its first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(32)

    def forward(self, text: Tensor) -> Tensor:
        scores: Tensor = self.linear(super().forward(text))
        return scores


class Wide(Table):
    """A table and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, text: Tensor) -> Tensor:
        scores: Tensor = self.linear(super().forward(text))
        return scores


class Seeing(Table):
    """Its extra state cannot be stored."""

    def get_extra_state(self) -> set[int]:
        """A set."""
        return {1}

    def set_extra_state(self, state: set[int]) -> None: ...


class Nothing(nn.Module):
    def forward(self, text: Tensor) -> Tensor:
        return nn.functional.one_hot(text, 32).float()


@pytest.fixture(autouse=True)
def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the only rank, and the models are registered."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    models = {kind.__name__: kind for kind in (Table, Branching, Spectral, ByName, Lazy, Wide, Seeing, Nothing)}
    monkeypatch.setattr(MODELS, "_registered", models)
    muon = {"muon": lambda params, lr=0.1: torch.optim.Muon(params, lr), "dense": dense}
    monkeypatch.setattr(OPTIMIZERS, "_registered", muon)


def dense(params: Any, lr: float = 0.1) -> torch.optim.Optimizer:
    """An optimizer with a setting that the trainer does not support."""
    return torch.optim.SGD(params, lr, differentiable=True)


def run(folder: Path, model: str, **changes: Any) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    path = write_job(folder, spec={"model": {"name": model}, "epochs": 1, "precision": "fp32", **changes})
    train(path)
    return events(path)


def test_a_model_that_cannot_be_exported_is_warned_of_before_it_is_trained(tmp_path: Path) -> None:
    reported = run(tmp_path, "Branching")
    kinds = [event["kind"] for event in reported]
    assert kinds.index("warning") < kinds.index("step")
    (warning,) = [event["message"] for event in reported if event["kind"] == "warning"]
    assert warning.startswith(
        "the model Branching can be trained but not exported: the model cannot be written as ONNX: "
    )
    assert "in forward: return scores if text.sum() > 0 else -scores" in warning
    assert reported[-1]["kind"] == "finished"


def test_a_model_that_will_be_exported_and_cannot_be_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    path = write_job(tmp_path, spec={"model": {"name": "Branching"}, "precision": "fp32"}, exportable=True)
    with pytest.raises(FailedPrecondition, match=r"Branching .* scores if text.sum\(\) > 0"):
        train(path)
    (failed,) = events(path)
    assert (failed["kind"], failed["reason"], failed["field"]) == ("failed", "EXPORT_UNSUPPORTED", "spec.model")


def test_an_operator_that_onnx_lacks_is_named_before_the_run_is_trained(tmp_path: Path) -> None:
    path = write_job(tmp_path, spec={"model": {"name": "Spectral"}, "precision": "fp32"}, exportable=True)
    with pytest.raises(FailedPrecondition, match=r"ONNX lacks the operator aten\.linalg_eigvals; test_train\.py:\d+"):
        train(path)
    (failed,) = events(path)
    assert (failed["kind"], failed["reason"], failed["field"]) == ("failed", "EXPORT_UNSUPPORTED", "spec.model")
    assert not [file.name for file in path.parent.iterdir() if file.is_dir()]


def test_a_run_that_adopts_a_checkpoint_is_refused_too_if_it_will_be_exported(tmp_path: Path) -> None:
    checkpoint = [event for event in run(tmp_path, "Branching") if event["kind"] == "checkpoint"][-1]["artifact"]
    spec = {"model": {"name": "Branching"}, "precision": "fp32", "epochs": 2}
    digest = json.loads(checkpoint)["sha256"]
    path = write_job(tmp_path, name="adopted", spec=spec, checkpoint_sha256=digest, exportable=True)
    with pytest.raises(FailedPrecondition, match="can be trained but not exported"):
        train(path)
    assert "step" not in [event["kind"] for event in events(path)]


def test_labels_that_only_the_held_out_part_has_are_warned_of(tmp_path: Path) -> None:
    task = TASKS["tabular"]
    held_out = np.random.default_rng(0).permutation(40)[:10]

    def none_is_held_out(num_samples: int, split: str, seed: int) -> list[Sample]:
        made = task.make(num_samples, split, seed)
        kinds = ["none" if i in held_out else "low" for i in range(num_samples)]
        return [replace(one, values={**one.values, "kind": kind}) for one, kind in zip(made, kinds, strict=True)]

    spec = task.spec | {"epochs": 1, "eval_share": 0.25, "seed": 0}
    path = write_job(tmp_path, spec=spec, fields=task.fields, make=none_is_held_out)
    train(path)
    (warning,) = [event["message"] for event in events(path) if event["kind"] == "warning"]
    where = "in the held-out part of the split 'train' but not in the rest, so the model cannot learn them"
    assert warning == f"some labels of 'kind' are {where}: 'none'"


def test_labels_that_only_the_evaluation_split_has_are_warned_of(tmp_path: Path) -> None:
    task = TASKS["tabular"]

    def without_none_in_train(num_samples: int, split: str, seed: int) -> list[Sample]:
        made = task.make(num_samples, split, seed)
        return [one for one in made if split == "test" or one.values["kind"] != "none"]

    path = write_job(tmp_path, spec=task.spec | {"epochs": 1}, fields=task.fields, make=without_none_in_train)
    train(path)
    reported = events(path)
    (warning,) = [event["message"] for event in reported if event["kind"] == "warning"]
    where = "in the split 'test' but not in 'train', so the model cannot learn them"
    assert warning == f"some labels of 'kind' are {where}: 'none'"
    assert reported[-1]["kind"] == "finished"


def test_the_best_epoch_is_kept_and_a_run_that_no_longer_improves_ends_early(tmp_path: Path) -> None:
    changes = {"optimizer": {"name": "adamw", "params": {"lr": 0.5}}, "early_stopping": {"patience": 3}, "epochs": 40}
    path = write_job(tmp_path, spec={"model": {"name": "Table"}, "precision": "fp32", **changes})
    train(path)
    reported = events(path)
    evaluations = [event for event in reported if event["kind"] == "evaluation"]
    losses = [event["metrics"]["loss"] for event in evaluations]
    best = losses.index(min(losses))
    assert len(losses) == best + 4 < 40
    assert [event["ends_run"] for event in evaluations] == [False] * (best + 3) + [True]
    assert [event["is_best"] for event in evaluations[best:]] == [True, False, False, False]
    finished = reported[-1]
    assert (finished["epoch"], finished["step"]) == (best + 1, evaluations[best]["step"])
    assert finished["metrics"] == evaluations[best]["metrics"]
    kept = [event for event in reported if event["kind"] == "checkpoint" and event["best_weights"]][-1]
    weights = read_weights(tmp_path, kept["best_weights"])
    last = [event for event in reported if event["kind"] == "checkpoint"][-1]
    assert last["step"] == evaluations[-1]["step"]
    assert not torch.equal(weights["table.weight"], read_weights(tmp_path, last["artifact"])["table.weight"])

    # A worker that is killed after its last checkpoint finishes the run with the same best epoch, without a step.
    again = write_job(
        tmp_path,
        name="again",
        spec={"model": {"name": "Table"}, "precision": "fp32", **changes},
        checkpoint_sha256=json.loads(last["artifact"])["sha256"],
    )
    train(again)
    resumed = events(again)
    assert [event["kind"] for event in resumed] == ["precision", "evaluation", "finished"]
    assert {**resumed[-1], "train_s": 0} == {**finished, "train_s": 0}


def test_a_figure_that_is_never_a_number_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = MixedPrecisionTrainer.evaluate
    monkeypatch.setattr(MixedPrecisionTrainer, "evaluate", lambda *a, **k: {**evaluate(*a, **k), "loss": math.nan})
    reported = run(tmp_path, "Table", early_stopping={"patience": 2}, epochs=9)
    (warning,) = [event["message"] for event in reported if event["kind"] == "warning"]
    assert warning == "loss is NaN after every epoch, so the last epoch counts as the best"
    assert (reported[-1]["kind"], reported[-1]["epoch"]) == ("finished", 2)


def read_weights(folder: Path, artifact: str) -> dict[str, Tensor]:
    """The model's part of a checkpoint."""
    data = open_store(f"file://{folder / 'store'}").read("default", json.loads(artifact)["sha256"])
    weights: dict[str, Tensor] = checkpoint.loads(data)["model"]
    return weights


def test_frozen_parameters_do_not_change_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    reported = run(tmp_path, "Wide", freeze=["table."])
    state = read_weights(tmp_path, [event for event in reported if event["kind"] == "checkpoint"][-1]["artifact"])
    torch.manual_seed(0)
    initial = Wide().state_dict()
    assert torch.equal(state["table.weight"], initial["table.weight"])
    assert not torch.equal(state["linear.weight"], initial["linear.weight"])
    with pytest.raises(InvalidArgument, match="no parameter of the model Wide begins with 'tabel'") as caught:
        run(tmp_path / "again", "Wide", freeze=["table.", "tabel"])
    assert caught.value.field == "spec.freeze[1]"


@pytest.mark.parametrize("model", ["Table", "ByName", "Lazy"])
def test_a_model_that_can_be_exported_is_trained_without_a_warning(tmp_path: Path, model: str) -> None:
    kinds = [event["kind"] for event in run(tmp_path, model)]
    assert "warning" not in kinds
    assert kinds[-1] == "finished"


@pytest.mark.parametrize(
    ("model", "optimizer", "field", "problem"),
    [
        ("Nothing", "adamw", "spec.model", "the model has no parameters to train"),
        ("Table", "dense", "spec.optimizer", "differentiable=True is for gradients through an update"),
        ("Lazy", "muon", "spec.optimizer.params", "only supports 2D"),
        ("Seeing", "adamw", "model/_extra_state", "get_extra_state may contain"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_first_step(
    tmp_path: Path, model: str, optimizer: str, field: str, problem: str
) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        run(tmp_path, model, optimizer={"name": optimizer})
    kinds = [event["kind"] for event in events(tmp_path / "job" / "job.json")]
    failed = events(tmp_path / "job" / "job.json")[-1]
    assert "step" not in kinds
    assert (failed["kind"], failed["code"], failed["field"]) == ("failed", "INVALID_ARGUMENT", field)


def test_a_share_of_the_training_split_is_held_out(tmp_path: Path) -> None:
    job = JobFile.open(write_job(tmp_path, spec={"model": {"name": "Table"}, "eval_share": 0.25, "seed": 3}))
    mappings = fit_mappings(job)
    (training, evaluation), again = open_splits(job, mappings), open_evaluation(job, mappings)
    assert evaluation is not None
    assert again is not None
    whole = open_split(job, "train", mappings)
    assert (len(training), len(evaluation)) == (30, 10)
    assert sorted(training.keys + evaluation.keys) == sorted(whole.keys)
    assert again.keys == evaluation.keys != whole.keys[:10]
    texts = {key: whole[i]["text"].tolist() for i, key in enumerate(whole.keys)}
    assert [one.tolist() for one in (evaluation[i]["text"] for i in range(10))] == [texts[key] for key in again.keys]
    reported = run(tmp_path / "run", "Table", eval_share=0.25, metrics=[{"name": "next_token_accuracy"}])
    (best,) = [event["metrics"] for event in reported if event["kind"] == "evaluation"]
    assert reported[-1]["metrics"] == best
