"""The preparation of a run as a process, and models that rounds cannot train."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.errors import FailedPrecondition, InvalidArgument, MeshError
from common.jobs.child import ChildProcess
from common.processes import python
from deepseek.components import MODELS
from deepseek.federated.arrays import from_bytes, shapes_of
from deepseek.federated.prepare import prepare
from deepseek.federated.recipe import Recipe
from deepseek.federated.training import build_model, restore_mappings
from tests.deepseek.federated.pictures import CNN, FIELDS, LABELS, samples
from tests.deepseek.federated.runs import prepared
from tests.deepseek.trainjob.jobs import write_job
from tests.deepseek.trainjob.small_tasks import TASKS

PRIVACY = {"noise_multiplier": 1.0, "clip_norm": 1.0, "example_rate": 0.5, "budget": "budgets/b"}


class Flat(nn.Module):
    """A linear classifier of pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16 * 16 * 3, len(LABELS))

    def forward(self, image: Tensor) -> Tensor:
        """image: uint8 [B, 16, 16, 3]."""
        logits: Tensor = self.linear(image.flatten(1) / 255)
        return logits


class NotANumber(Flat):
    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.linear.bias[0] = torch.nan


class Counting(Flat):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("num_calls", torch.zeros((), dtype=torch.int64))


class Double(Flat):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))


class Averaging(Flat):
    """Keeps statistics itself, not in a module of its own."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(image.float().mean(), 0.1)
        return super().forward(image)


class Silent(Flat):
    """Batch normalization without any state."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(len(LABELS), track_running_stats=False)

    def forward(self, image: Tensor) -> Tensor:
        normalized: Tensor = self.norm(super().forward(image))
        return normalized


class Choosing(Flat):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) if image.sum() > 0 else super().forward(image + 1)


def with_groups(task: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A spec whose model normalizes groups of channels in place of batches."""
    if task not in ("cnn", "resnet18", "searched_cnn", "audio_classifier"):
        return spec
    return {**spec, "model": {**spec["model"], "params": {**spec["model"]["params"], "norm": "group"}}}


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {kind.__name__: kind for kind in (Flat, NotANumber, Counting, Double, Averaging, Silent, Choosing)}
    monkeypatch.setattr(MODELS, "_registered", kinds)


def test_the_process_reports_the_recipe_and_the_initial_arrays(tmp_path: Path) -> None:
    path = write_job(tmp_path, spec=CNN, fields=FIELDS, make=samples, fit={"local_epochs": 2})
    job = json.loads(path.read_text())
    with ChildProcess(tmp_path / "child", python("deepseek.federated.prepare"), job) as child:
        assert child.wait(120)
        events = child.events()
    assert [event["kind"] for event in events] == ["progress"] * 3 + ["finished"], child.log_tail()


def test_a_node_builds_the_model_of_the_coordinator_from_the_recipe(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    assert run.recipe.fields == FIELDS
    assert shapes_of(from_bytes(run.initial)) == run.recipe.shapes
    recipe = Recipe.from_bytes(run.recipe.to_bytes())
    model = build_model(recipe, restore_mappings(recipe))
    for name, value in from_bytes(run.initial).items():
        np.testing.assert_array_equal(value, model.get_parameter(name).detach().numpy())
    assert not recipe.fixed
    assert not recipe.frozen


@pytest.mark.parametrize("task", TASKS)
def test_every_built_in_model_can_be_trained_in_rounds(task: str, tmp_path: Path) -> None:
    kind = TASKS[task]
    path = write_job(tmp_path, spec=with_groups(task, kind.spec), fields=kind.fields, make=kind.make)
    recipe = prepare(path)
    build_model(recipe, restore_mappings(recipe))
    assert bool(recipe.frozen) == (task in ("tabular", "tabular with factors", "audio_classifier"))


@pytest.mark.parametrize(
    ("spec", "reason", "field", "message"),
    [
        (
            {"model": {"name": "cnn"}},
            "BAD_MODEL_STATE",
            "spec.model",
            'group normalization, e.g. the parameter norm="group"',
        ),
        ({"model": {"name": "Counting"}}, "BAD_MODEL_STATE", "spec.model", "num_calls holds integers"),
        ({"model": {"name": "NotANumber"}}, "BAD_MODEL_STATE", "spec.model", "linear.bias has values that are NaN"),
        ({"model": {"name": "Double"}}, "BAD_MODEL_STATE", "spec.model", "scale is torch.float64"),
        ({"model": {"name": "Averaging"}}, "BAD_MODEL_STATE", "spec.model", "move them to a module of their own"),
        ({"freeze": [""]}, "BAD_VALUE", "spec.freeze", "every parameter is frozen"),
        ({"num_workers": 2}, "BAD_VALUE", "spec.num_workers", "num_workers is 2"),
        ({"privacy": PRIVACY}, "BAD_VALUE", "spec.privacy", "stated for the federated run"),
        ({"early_stopping": {"patience": 2}}, "BAD_VALUE", "spec.early_stopping", "leave it out"),
        (
            {"optimizer": {"name": "sgd", "params": {"lr": -1}}},
            "BAD_VALUE",
            "spec.optimizer.params",
            "Invalid learning rate",
        ),
    ],
)
def test_what_rounds_cannot_train_is_refused(
    spec: dict[str, Any], reason: str, field: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(MeshError, match=message) as caught:
        prepared(tmp_path, **spec)
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_frozen_weights_are_not_sent_but_rebuilt(tmp_path: Path) -> None:
    run = prepared(tmp_path, freeze=["trunk.0"])
    assert not any(name.startswith("trunk.0.") for name in run.recipe.shapes)
    assert not run.recipe.fixed, "the seed determines them"
    other = run.recipe.to_json() | {"rest_sha256": "0" * 64}
    with pytest.raises(FailedPrecondition, match="other frozen weights") as caught:
        build_model(recipe := Recipe.from_json(other), restore_mappings(recipe))
    assert caught.value.reason == "WRONG_VERSION"


def test_statistics_come_from_the_reference_data_and_stay_as_they_are(tmp_path: Path) -> None:
    task = TASKS["tabular"]
    run = prepared(tmp_path, fields=task.fields, make=task.make, **task.spec)
    model = build_model(run.recipe, restore_mappings(run.recipe))
    assert run.recipe.frozen == ("standardise",)
    rows = [sample.values["size"] for sample in task.make(40, "train", 1)]
    standardise = model.get_submodule("standardise")
    assert float(standardise.mean[0]) == pytest.approx(np.mean(rows), rel=1e-5)
    assert not standardise.training
    assert model.training


def test_a_recipe_of_another_version_is_refused(tmp_path: Path) -> None:
    document = prepared(tmp_path).recipe.to_json()
    with pytest.raises(FailedPrecondition, match="the coordinator has the version 9") as caught:
        Recipe.from_json({**document, "product": "9", "unheard": 1})
    assert (caught.value.reason, caught.value.field) == ("WRONG_VERSION", "recipe.product")
    with pytest.raises(InvalidArgument, match="unknown field 'more'"):
        Recipe.from_json({**document, "more": 1})
    for name in ("shapes", "encoders", "spec", "fields", "frozen"):
        with pytest.raises(InvalidArgument):
            Recipe.from_json({**document, name: 3})
    without = {name: value for name, value in document.items() if name != "shapes"}
    with pytest.raises(InvalidArgument, match="shapes is missing"):
        Recipe.from_json(without)


DP_SGD = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_batch_size": 16, "sampling_rate": 0.2}


@pytest.mark.parametrize(
    ("spec", "reason", "field"),
    [
        ({"optimizer": {"name": "lbfgs"}}, "NOT_PRIVATE_OPTIMIZER", "spec.optimizer"),
        ({"precision": "fp16"}, "NOT_PRIVATE_PRECISION", "spec.precision"),
        ({"model": {"name": "Silent"}}, "NOT_PRIVATE_MODEL", "spec.model"),
        ({"model": {"name": "Choosing"}}, "NOT_PRIVATE_MODEL", "spec.model"),
    ],
)
@pytest.mark.filterwarnings("ignore::deepseek.training.precision.SlowPrecisionWarning")
def test_what_dp_sgd_cannot_train_is_refused_before_a_round(
    spec: dict[str, Any], reason: str, field: str, tmp_path: Path
) -> None:
    path = write_job(
        tmp_path, spec={**CNN, **spec}, fields=FIELDS, make=samples, fit={"local_epochs": 1, "dp_sgd": DP_SGD}
    )
    with pytest.raises(FailedPrecondition) as caught:
        prepare(path)
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_every_built_in_task_can_be_trained_with_dp_sgd(tmp_path: Path) -> None:
    for number, (task, kind) in enumerate(TASKS.items()):
        spec = with_groups(task, kind.spec)
        path = write_job(
            tmp_path, name=f"job{number}", spec=spec, fields=kind.fields, make=kind.make, fit={"dp_sgd": DP_SGD}
        )
        prepare(path)
