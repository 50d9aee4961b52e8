"""Run specs from plain data, and the trainer's errors as the client sees them."""

import numpy as np
import pytest

from common.errors import InvalidArgument, NotFound
from deepseek.client import Mesh
from deepseek.client.runs import parse_spec


def test_a_spec_from_plain_data_is_the_message() -> None:
    spec = parse_spec({"epochs": 3, "model": {"name": "m", "params": {"width": 2}}, "precision": "PRECISION_BF16"})
    assert (spec.epochs, spec.model.name, spec.model.params["width"]) == (3, "m", 2)


def test_names_of_versions_may_be_short() -> None:
    spec = parse_spec({"dataset_version": "colours", "init": "shapes@champion", "privacy": {"budget": "colours"}})
    assert spec.privacy.budget == "budgets/colours"
    assert (spec.dataset_version, spec.init) == ("datasets/colours/versions/latest", "models/shapes/aliases/champion")
    with pytest.raises(InvalidArgument) as caught:
        parse_spec({"init": "datasets/shapes", "epochs": "many"})
    assert caught.value.reason == "BAD_NAME"
    assert [violation.field for violation in caught.value.violations] == ["spec.init", "spec.epochs"]


def test_numbers_of_numpy_count_as_pythons_own() -> None:
    params = {"width": np.int64(2), "rate": np.float32(0.5), "wide": np.bool_(True), "sizes": np.array([1, 2])}
    spec = {"epochs": np.int64(3), "seed": np.uint64(1 << 40), "clip_norm": np.float32(0.5)}
    plain = {"width": 2, "rate": 0.5, "wide": True, "sizes": [1, 2]}
    expected = parse_spec({"epochs": 3, "seed": 1 << 40, "clip_norm": 0.5, "model": {"name": "m", "params": plain}})
    assert parse_spec({**spec, "model": {"name": np.str_("m"), "params": params}}) == expected


@pytest.mark.parametrize(
    ("spec", "reason", "field"),
    [
        ({"epoch": 3}, "UNKNOWN_FIELD", "spec.epoch"),
        ({"model": {"nam": "m"}}, "UNKNOWN_FIELD", "spec.model.nam"),
        ({"inputs": [{}, {"encoder": {"nam": "m"}}]}, "UNKNOWN_FIELD", "spec.inputs[1].encoder.nam"),
        ({"epochs": "many"}, "BAD_VALUE", "spec.epochs"),
        ({"epochs": 1 << 40}, "BAD_VALUE", "spec"),
        ({"precision": "PRECISION_FP12"}, "BAD_VALUE", "spec.precision"),
        ({"inputs": {}}, "BAD_VALUE", "spec.inputs"),
        ({"epochs": np.float64(1.5)}, "BAD_VALUE", "spec.epochs"),
        ({"model": {"params": {"sizes": [1, b"2"]}}}, "BAD_VALUE", "spec.model.params.sizes[1]"),
        ({"model": {"params": {"init": object()}}}, "BAD_VALUE", "spec.model.params.init"),
    ],
)
def test_a_wrong_spec_is_refused_before_it_is_sent(spec: dict[str, object], reason: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_spec(spec)
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_the_trainer_refuses_an_unknown_component_by_its_field(mesh: Mesh) -> None:
    with pytest.raises(InvalidArgument) as caught:
        mesh.runs.submit({"dataset_version": "datasets/d/versions/1", "model": {"name": "nothing"}})
    assert "spec.model.name" in [violation.field for violation in caught.value.violations]


def test_an_unknown_run_or_model_is_not_found(mesh: Mesh) -> None:
    with pytest.raises(NotFound) as run:
        mesh.runs.get("runs/nothing")
    with pytest.raises(NotFound) as model:
        mesh.models.version("models/nothing/versions/1")
    with pytest.raises(NotFound) as loaded:
        mesh.inference.metadata("nothing")
    with pytest.raises(NotFound) as load:
        mesh.inference.load("nothing")
    reasons = [caught.value.reason for caught in (run, model, loaded, load)]
    assert reasons == ["RUN_NOT_FOUND", "MODEL_NOT_FOUND", "MODEL_NOT_LOADED", "MODEL_NOT_FOUND"]
