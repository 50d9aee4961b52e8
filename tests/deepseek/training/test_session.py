"""Checks of a model before the first step of a session."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import InvalidArgument
from deepseek.components import MODELS, OPTIMIZERS
from deepseek.training.session import train
from tests.deepseek.training.jobs import events, write_job


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
    models = {kind.__name__: kind for kind in (Table, Branching, ByName, Lazy, Seeing, Nothing)}
    monkeypatch.setattr(MODELS, "_registered", models)
    muon = {"muon": lambda params, lr=0.1: torch.optim.Muon(params, lr), "dense": dense}
    monkeypatch.setattr(OPTIMIZERS, "_registered", muon)


def dense(params: Any, lr: float = 0.1) -> torch.optim.Optimizer:
    """An optimizer with a setting that the trainer does not support."""
    return torch.optim.SGD(params, lr, differentiable=True)


def run(folder: Path, model: str, **changes: Any) -> list[dict[str, Any]]:
    path = write_job(folder, spec={"model": {"name": model}, "epochs": 1, "precision": "fp32", **changes})
    train(path)
    return events(path)


def test_a_model_that_cannot_be_exported_is_warned_of_before_it_is_trained(tmp_path: Path) -> None:
    reported = run(tmp_path, "Branching")
    kinds = [event["kind"] for event in reported]
    assert kinds.index("warning") < kinds.index("step")
    (warning,) = [event["message"] for event in reported if event["kind"] == "warning"]
    assert warning.startswith("the model can be trained but not exported: the model cannot be written as ONNX: ")
    assert "in forward: return scores if text.sum() > 0 else -scores" in warning
    assert reported[-1]["kind"] == "finished"


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
        ("Seeing", "adamw", "model/_extra_state", "get_extra_state may hold"),
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
