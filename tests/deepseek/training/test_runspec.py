"""The typed spec: its JSON form is the proto's, and it says what is wrong."""

from typing import Any

import pytest
from google.protobuf import json_format

from common.errors import InvalidArgument
from deepseek.data.manifest import DatasetManifest, Field, Shard
from deepseek.training.runspec import RunSpec
from protos.trainer.v1 import trainer_pb2

MANIFEST = DatasetManifest(
    (Field("picture", "image"), Field("said", "label", labels=("no", "yes")), Field("sound", "audio")),
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


def test_a_field_without_a_usual_encoder_needs_one() -> None:
    spec = RunSpec.from_json(SPEC | {"inputs": [{"field": "sound"}]})
    with pytest.raises(InvalidArgument) as caught:
        spec.resolved("datasets/d/versions/3", MANIFEST)
    assert (caught.value.reason, caught.value.field) == ("MISSING_FIELD", "spec.inputs[0].encoder.name")
