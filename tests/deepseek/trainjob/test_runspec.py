"""The typed spec: its JSON form is the proto's, and it says what is wrong."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format

from common.errors import InvalidArgument
from deepseek.data.manifest import DatasetManifest, Field, Shard
from deepseek.privacy.releases import Release
from deepseek.trainjob.runspec import RunSpec
from protos.trainer.v1 import trainer_pb2

MANIFEST = DatasetManifest(
    (Field("picture", "image"), Field("said", "label", labels=("no", "yes")), Field("blob", "bytes")),
    {"train": (Shard("a" * 64, 10, 4),)},
)
SPEC: dict[str, Any] = {
    "dataset_version": "datasets/d/aliases/best",
    "model": {"name": "resnet50", "params": {"num_classes": 2}},
    "inputs": [{"field": "picture", "augmentations": [{"name": "random_flip"}]}],
    "target": {"field": "said"},
    "epochs": 2,
    "batch_size": 8,
    "seed": "12345678901234",
    "precision": "PRECISION_BF16",
}


def test_json_is_the_protos_json_both_ways() -> None:
    message = json_format.ParseDict(SPEC, trainer_pb2.RunSpec())
    spec = RunSpec.from_json(json_format.MessageToDict(message, preserving_proto_field_name=True))
    assert (spec.seed, spec.precision) == (12345678901234, "bf16")
    assert json_format.ParseDict(spec.to_json(), trainer_pb2.RunSpec()).model == message.model
    assert RunSpec.from_json(spec.to_json()) == spec


def test_the_specs_fields_are_the_protos() -> None:
    assert list(RunSpec.__dataclass_fields__) == [field.name for field in trainer_pb2.RunSpec.DESCRIPTOR.fields]


def test_a_resolved_spec_is_complete() -> None:
    spec = RunSpec.from_json(SPEC).resolved("datasets/d/versions/3", MANIFEST)
    assert spec.dataset_version == "datasets/d/versions/3"
    assert (spec.inputs[0].input, spec.inputs[0].encoder.name) == ("picture", "image")
    assert spec.target.encoder.name == "label"
    assert dict(spec.inputs[0].encoder.params) == {"size": 64, "mode": "RGB"}
    assert (spec.optimizer.name, spec.schedule.name, spec.num_workers) == ("adamw", "constant", 1)
    assert spec.resolved("datasets/d/versions/3", MANIFEST) == spec


def test_canonical_text_does_not_depend_on_order_or_number_form() -> None:
    reordered = dict(reversed(SPEC.items())) | {"model": {"params": {"num_classes": 2.0}, "name": "resnet50"}}
    assert RunSpec.from_json(SPEC).canonical() == RunSpec.from_json(reordered).canonical()


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"modle": {}}, "UNKNOWN_FIELD", "spec.modle"),
        ({"model": {"name": "resnet50", "parms": {}}}, "UNKNOWN_FIELD", "spec.model.parms"),
        ({"inputs": [{"feild": "x"}]}, "UNKNOWN_FIELD", "spec.inputs[0].feild"),
        ({"epochs": "many"}, "BAD_VALUE", "spec.epochs"),
        ({"epochs": True}, "BAD_VALUE", "spec.epochs"),
        ({"inputs": {}}, "BAD_VALUE", "spec.inputs"),
        ({"model": "resnet50"}, "BAD_VALUE", "spec.model"),
        ({"precision": "PRECISION_FP8"}, "BAD_VALUE", "spec.precision"),
    ],
)
def test_json_that_is_no_spec_is_refused_with_its_path(changes: dict[str, Any], reason: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        RunSpec.from_json(SPEC | changes)
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_every_mistake_is_listed() -> None:
    with pytest.raises(InvalidArgument) as caught:
        RunSpec.from_json(SPEC | {"modle": {}, "epochs": "many", "target": {"feild": "x", "input": 1}, "freeze": [1]})
    fields = [violation.field for violation in caught.value.violations]
    assert fields == ["spec.modle", "spec.target.feild", "spec.epochs", "spec.freeze[0]"]
    wrong = SPEC | {
        "epochs": 0,
        "batch_size": 0,
        "select_metric": "f1",
        "early_stopping": {"min_delta": -1},
        "freeze": [""],
    }
    with pytest.raises(InvalidArgument) as caught:
        RunSpec.from_json(wrong).check()
    assert [violation.field for violation in caught.value.violations] == [
        "spec.epochs",
        "spec.batch_size",
        "spec.select_metric",
        "spec.early_stopping.patience",
        "spec.early_stopping.min_delta",
        "spec.freeze[0]",
    ]
    assert caught.value.message == "epochs is missing or 0; it must be at least 1"


def test_early_stopping_needs_a_split_to_evaluate() -> None:
    spec = RunSpec.from_json(SPEC | {"early_stopping": {"patience": 2}})
    with pytest.raises(InvalidArgument, match="no split 'test'; it has train") as caught:
        spec.resolved("datasets/d/versions/3", MANIFEST)
    assert caught.value.field == "spec.eval_split"
    held_out = RunSpec.from_json(SPEC | {"early_stopping": {"patience": 2}, "eval_share": 0.2})
    assert held_out.resolved("datasets/d/versions/3", MANIFEST).eval_share == 0.2


def checked(spec: RunSpec, manifest: DatasetManifest) -> RunSpec:
    spec.check()
    return spec.resolved("datasets/d/versions/3", manifest)


@pytest.mark.parametrize(("share", "problem"), [(1.0, "at least 0 and below 1"), (0.2, "fewer than two samples")])
def test_something_must_be_left_to_train_on(share: float, problem: str) -> None:
    spec = RunSpec.from_json(SPEC | {"eval_share": share})
    tiny = replace(MANIFEST, splits={"train": (Shard("0" * 64, 1, 1),)})
    with pytest.raises(InvalidArgument, match=problem) as caught:
        checked(spec, tiny)
    assert caught.value.field == "spec.eval_share"


def test_a_field_without_a_usual_encoder_needs_one() -> None:
    spec = RunSpec.from_json(SPEC | {"inputs": [{"field": "blob"}]})
    with pytest.raises(InvalidArgument) as caught:
        spec.resolved("datasets/d/versions/3", MANIFEST)
    assert (caught.value.reason, caught.value.field) == ("MISSING_FIELD", "spec.inputs[0].encoder.name")


def test_a_target_with_one_class_is_refused() -> None:
    manifest = replace(MANIFEST, fields=(MANIFEST.fields[0], Field("said", "label", labels=("no",))))
    with pytest.raises(InvalidArgument, match="the field 'said' has only the class 'no'") as caught:
        RunSpec.from_json(SPEC).resolved("datasets/d/versions/3", manifest)
    assert caught.value.field == "spec.target.field"


PRIVACY = {"noise_multiplier": 1.1, "clip_norm": 1.0, "example_rate": 0.03, "budget": "budgets/b"}


def test_privacy_is_equal_after_json_and_becomes_settings_of_the_trainer() -> None:
    spec = RunSpec.from_json({"privacy": PRIVACY, "batch_size": 16})
    assert RunSpec.from_json(json.loads(spec.canonical())) == spec
    assert spec.privacy is not None
    settings = spec.privacy.settings(spec.batch_size)
    assert (settings.steps_per_epoch, settings.expected_batch_size, settings.max_grad_norm) == (34, 16, 1.0)
    assert RunSpec.from_json({"privacy": None}).privacy is None


def test_a_spec_may_aim_at_an_epsilon_until_the_noise_is_chosen() -> None:
    aim = {"target_epsilon": 3.0, "clip_norm": 1.0, "example_rate": 0.03, "budget": "budgets/b"}
    spec = RunSpec.from_json({"privacy": aim, "batch_size": 16, "epochs": 2})
    assert json.loads(spec.canonical())["privacy"] == {**aim, "target_epsilon": 3, "clip_norm": 1}
    assert RunSpec.from_json(json.loads(spec.canonical())) == spec
    chosen = spec.with_noise(1.1)
    assert chosen == RunSpec.from_json({"privacy": PRIVACY, "batch_size": 16, "epochs": 2})
    assert chosen.privacy is not None
    assert chosen.privacy.release(spec.epochs) == Release(1.1, 0.03, 68)
    assert RunSpec().with_noise(None) == RunSpec()


@pytest.mark.parametrize(
    ("changes", "reason", "field", "problem"),
    [
        ({}, "MISSING_FIELD", "noise_multiplier", "set the noise multiplier, or a target epsilon"),
        ({"noise_multiplier": 0}, "BAD_NOISE", "noise_multiplier", "noise_multiplier is 0"),
        ({"noise_multiplier": -1}, "BAD_NOISE", "noise_multiplier", "noise_multiplier is -1"),
        ({"target_epsilon": 0}, "BAD_EPSILON", "target_epsilon", "target epsilon is 0.*above 0 and at most 500"),
        ({"target_epsilon": -3}, "BAD_EPSILON", "target_epsilon", "target epsilon is -3"),
        ({"target_epsilon": 501}, "BAD_EPSILON", "target_epsilon", "target epsilon is 501"),
        ({"target_epsilon": math.nan}, "BAD_EPSILON", "target_epsilon", "target epsilon is nan"),
        ({"target_epsilon": "3"}, "BAD_VALUE", "target_epsilon", "expected a number"),
        ({"target_epsilon": 3, "noise_multiplier": 1}, "BAD_VALUE", "noise_multiplier", "set either .* not both"),
        ({"target_epsilon": 3, "example_rate": 0}, "BAD_RATE", "example_rate", "example_rate is missing or 0"),
        ({"target_epsilon": 3, "clip_norm": 0}, "BAD_VALUE", "clip_norm", "clip_norm is missing or 0"),
        ({"target_epsilon": 3, "budget": ""}, "MISSING_FIELD", "budget", "the privacy budget is missing"),
    ],
)
def test_a_wrong_choice_of_noise_is_refused(changes: dict[str, Any], reason: str, field: str, problem: str) -> None:
    privacy = {"clip_norm": 1, "example_rate": 0.5, "budget": "budgets/b", **changes}
    with pytest.raises(InvalidArgument, match=problem) as caught:
        RunSpec.from_json({**SPEC, "privacy": privacy}).check()
    assert (caught.value.reason, caught.value.field) == (reason, f"spec.privacy.{field}")


def test_every_mistake_in_the_privacy_of_a_run_is_reported() -> None:
    spec = RunSpec.from_json({"privacy": {"example_rate": 2}, "num_workers": 2, "batch_size": 2, "eval_share": 0.5})
    with pytest.raises(InvalidArgument) as caught:
        spec.check()
    found = {violation.field for violation in caught.value.violations}
    private = {f"spec.privacy.{name}" for name in PRIVACY}
    assert private | {"spec.num_workers", "spec.eval_share"} <= found
    with pytest.raises(InvalidArgument, match="unknown field 'sigma'"):
        RunSpec.from_json({"privacy": {"sigma": 1}})


@pytest.mark.parametrize(
    ("splits", "changes"),
    [
        ({"train": "ab"}, {"eval_split": "train"}),
        ({"test": "ab"}, {"train_split": "test"}),
        ({"train": "ab", "test": "ab"}, {}),
        ({"train": "ab", "test": "cb"}, {}),
    ],
)
def test_a_private_run_is_not_evaluated_on_private_examples(splits: dict[str, str], changes: dict[str, Any]) -> None:
    shards = {name: tuple(Shard(letter * 64, 10, 4) for letter in letters) for name, letters in splits.items()}
    spec = RunSpec.from_json({**SPEC, **changes, "privacy": PRIVACY})
    with pytest.raises(InvalidArgument, match="use an evaluation split of other examples") as caught:
        spec.resolved("datasets/d/versions/3", DatasetManifest(MANIFEST.fields, shards))
    assert (caught.value.reason, caught.value.field) == ("EVALUATION_NOT_PRIVATE", "spec.eval_split")
    replace(spec, privacy=None).resolved("datasets/d/versions/3", DatasetManifest(MANIFEST.fields, shards))
