"""The spec of a federated run: its JSON form and its checks."""

import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from common.errors import InvalidArgument, MeshError
from deepseek.federated.run_spec import FederatedRunSpec, Sampling
from deepseek.federated.strategy import STRATEGIES
from protos.federated.v1 import federated_pb2 as pb
from tests.services.trainer.tasks import picture_spec

PAGE = (Path(__file__).parents[3] / "docs" / "federated.md").read_text(encoding="utf-8")
PRIVACY = {"unit": "UNIT_CLIENT", "clip_norm": 1.0, "noise_multiplier": 2.0, "budget": "budgets/b"}


def spec(**changes: Any) -> FederatedRunSpec:
    """A valid spec with changes."""
    model = picture_spec("datasets/pictures/versions/1", epochs=0, num_workers=1)
    return FederatedRunSpec.from_json({"model": model, "num_rounds": 3, "target_model": "models/m", **changes})


def refusal(**changes: Any) -> tuple[str, str]:
    """Reason and field with which a spec is refused."""
    with pytest.raises(InvalidArgument) as caught:
        spec(**changes).check()
    return caught.value.reason, caught.value.field


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampling": {"num_nodes": 2}, "strategy": {"name": "trimmed_mean", "params": {"share": 0.3}}},
        {"sampling": {"rate": 0.25}, "quorum": 2, "privacy": PRIVACY, "max_retries": 0},
        {"privacy": {**PRIVACY, "unit": "UNIT_EXAMPLE", "example_rate": 0.1, "delta": 1e-6}},
        {
            "privacy": {key: value for key, value in PRIVACY.items() if key != "noise_multiplier"}
            | {"target_epsilon": 3}
        },
    ],
)
def test_a_spec_comes_back_from_its_message(changes: dict[str, Any]) -> None:
    given = spec(**changes)
    given.check()
    message = json_format.ParseDict(given.to_json(), pb.FederatedRunSpec())
    again = FederatedRunSpec.from_json(json_format.MessageToDict(message, preserving_proto_field_name=True))
    assert again == given
    assert again.canonical() == given.canonical()


def test_defaults_are_filled_in() -> None:
    full = spec().with_defaults()
    assert (full.strategy.name, full.local_epochs, full.deadline_s, full.quorum) == ("fedavg", 1, 600.0, 1)
    assert full.sampling == Sampling(all=True)
    assert spec(sampling={"rate": 0.5}).with_defaults().quorum == 0
    assert spec(sampling={"rate": 0.5}, privacy=PRIVACY).with_defaults().quorum == 1


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"num_rounds": 0}, "BAD_VALUE", "spec.num_rounds"),
        ({"num_rounds": 10_001}, "BAD_VALUE", "spec.num_rounds"),
        ({"target_model": ""}, "MISSING_FIELD", "spec.target_model"),
        ({"target_model": "datasets/m"}, "BAD_NAME", "spec.target_model"),
        ({"deadline_s": "NaN"}, "BAD_VALUE", "spec.deadline_s"),
        ({"max_update_norm": -1}, "BAD_VALUE", "spec.max_update_norm"),
        ({"quorum": -1}, "BAD_VALUE", "spec.quorum"),
        ({"register_every": -1}, "BAD_VALUE", "spec.register_every"),
        ({"max_retries": 101}, "BAD_VALUE", "spec.max_retries"),
        ({"sampling": {"num_nodes": 0}}, "BAD_VALUE", "spec.sampling.num_nodes"),
        ({"sampling": {"rate": 0}}, "BAD_VALUE", "spec.sampling.rate"),
        ({"sampling": {"rate": 1.5}, "privacy": PRIVACY}, "BAD_RATE", "spec.sampling.rate"),
        ({"sampling": {"rate": 0.5, "num_nodes": 2}}, "BAD_VALUE", "spec.sampling"),
        ({"strategy": {"name": "best"}}, "UNKNOWN_STRATEGY", "spec.strategy.name"),
        ({"strategy": {"name": "fedavg", "params": {"x": 1}}}, "BAD_VALUE", "spec.strategy.params.x"),
        ({"strategy": {"name": "median"}, "privacy": PRIVACY}, "STRATEGY_NOT_PRIVATE", "spec.strategy.name"),
        ({"privacy": {**PRIVACY, "unit": ""}}, "MISSING_FIELD", "spec.privacy.unit"),
        ({"privacy": {**PRIVACY, "unit": "UNIT_CITY"}}, "BAD_VALUE", "spec.privacy.unit"),
        ({"privacy": {**PRIVACY, "budget": ""}}, "MISSING_FIELD", "spec.privacy.budget"),
        ({"privacy": {**PRIVACY, "clip_norm": 0}}, "BAD_VALUE", "spec.privacy.clip_norm"),
        ({"privacy": {**PRIVACY, "noise_multiplier": 0}}, "BAD_NOISE", "spec.privacy.noise_multiplier"),
        ({"privacy": {**PRIVACY, "noise_multiplier": -1}}, "BAD_NOISE", "spec.privacy.noise_multiplier"),
        ({"privacy": {**PRIVACY, "target_epsilon": 1}}, "BAD_VALUE", "spec.privacy.noise_multiplier"),
        ({"privacy": {**PRIVACY, "delta": 1}}, "BAD_DELTA", "spec.privacy.delta"),
        ({"privacy": {**PRIVACY, "unit": "UNIT_EXAMPLE"}}, "BAD_RATE", "spec.privacy.example_rate"),
        ({"privacy": {**PRIVACY, "example_rate": 0.1}}, "BAD_VALUE", "spec.privacy.example_rate"),
        ({"local_epoch": 1}, "UNKNOWN_FIELD", "spec.local_epoch"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], reason: str, field: str) -> None:
    assert refusal(**changes) == (reason, field)


@pytest.mark.parametrize("name", ["clip_norm", "example_rate"])
def test_a_number_that_is_missing_is_reported_as_missing(name: str) -> None:
    privacy = {**PRIVACY, "unit": "UNIT_EXAMPLE", "example_rate": 0.1}
    del privacy[name]
    with pytest.raises(InvalidArgument, match=f"{name} is missing or 0; it must be") as caught:
        spec(privacy=privacy).check()
    assert caught.value.field == f"spec.privacy.{name}"


@pytest.mark.parametrize("epsilon", [0, -1, "NaN"])
def test_a_target_that_is_no_positive_number_is_refused(epsilon: Any) -> None:
    privacy = {key: value for key, value in PRIVACY.items() if key != "noise_multiplier"}
    assert refusal(privacy={**privacy, "target_epsilon": epsilon}) == ("BAD_EPSILON", "spec.privacy.target_epsilon")


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ({"num_workers": 2}, "spec.model.num_workers"),
        ({"early_stopping": {"patience": 1}}, "spec.model.early_stopping"),
        ({"privacy": {"noise_multiplier": 1, "clip_norm": 1, "example_rate": 0.1}}, "spec.model.privacy"),
        ({"eval_share": 0.5}, "spec.model.eval_share"),
        ({"batch_size": 0}, "spec.model.batch_size"),
        ({"optimizer": {"name": "best"}}, "spec.model.optimizer.name"),
    ],
)
def test_models_that_rounds_cannot_train_are_refused(model: dict[str, Any], field: str) -> None:
    given = picture_spec("datasets/pictures/versions/1", **{"epochs": 0, "num_workers": 1, **model})
    with pytest.raises(MeshError) as caught:
        spec(model=given).check()
    assert field in [violation.field for violation in caught.value.violations]


def test_the_spec_of_the_documentation_is_valid() -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    model = {**tomllib.loads(text), "dataset_version": "datasets/digits/versions/1"}
    FederatedRunSpec.from_json({"model": model, "num_rounds": 10, "target_model": "models/clinics"}).check()


def test_the_documentation_lists_the_strategies_and_their_parameters() -> None:
    rows = dict(re.findall(r"^\| `(fed\w+|trimmed_mean|median)` \|.*\| ([^|]*) \|$", PAGE, flags=re.MULTILINE))
    assert list(rows) == list(STRATEGIES)
    for name, strategy in STRATEGIES.items():
        documented = {key: float(value) for key, value in re.findall(r"`(\w+)` ([\d.]+)", rows[name])}
        known = {key: float(one.default) for key, one in inspect.signature(strategy).parameters.items()}
        assert documented == known
