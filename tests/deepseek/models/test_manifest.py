import dataclasses
import hashlib
import json
from typing import Any

import pytest

from common.errors import InvalidArgument
from deepseek.models.manifest import EncoderSpec, Measurement, ModelFile, ModelManifest, RunPrecision, TensorSpec
from deepseek.models.probes import MEDIA_TYPE as PROBES_MEDIA_TYPE

MANIFEST = ModelManifest(
    model="image_question",
    params={"num_classes": 13, "width": 24},
    run="runs/abc",
    dataset_version="datasets/d/versions/1",
    files=(ModelFile("model.onnx", "fp32", "ab" * 32, 10), ModelFile("model.int8.onnx", "int8", "cd" * 32, 5)),
    served="model.int8.onnx",
    inputs=(
        TensorSpec("image", "UINT8", (-1, 64, 64, 3), EncoderSpec("image", {"size": 64}), "image"),
        TensorSpec("question", "INT64", (-1, -1, 16), EncoderSpec("words", {}, {"tokens": ["größe"]}), "question"),
    ),
    outputs=(TensorSpec("output", "FP32", (-1, -1, 13), labels=("no", "yes")),),
    metrics={"accuracy": 0.999, "loss": 1e-3},
    measurements=(Measurement("fp32", 1.5, "accuracy", 0.999),),
)


def test_a_manifest_is_read_as_it_was_written() -> None:
    again = ModelManifest.from_bytes(MANIFEST.to_bytes())
    assert again == MANIFEST
    assert again.to_bytes() == MANIFEST.to_bytes()


RELEASED = "873e4d43bd49cdcb89cc9318a84545eda3994b83b16fda640264a2f178e4f55a"

VERIFIED = dataclasses.replace(
    MANIFEST,
    files=(*MANIFEST.files, ModelFile("probes.npz", "probes", "ef" * 32, 7, PROBES_MEDIA_TYPE)),
    measurements=(Measurement("int8", 0.5, "accuracy", 0.998, 0.001, 0.0, "avx512_vnni"),),
    accepted_loss=0.0,
    probes="probes.npz",
    precision=RunPrecision("fp32", "fastest", {"fp32": 1.0, "bf16": 9.8, "fp16": 13.1}, "avx2"),
)


def test_evidence_and_probes_are_read_as_they_were_written() -> None:
    again = ModelManifest.from_bytes(VERIFIED.to_bytes())
    assert again == VERIFIED
    assert again.to_bytes() == VERIFIED.to_bytes()


def test_a_manifest_from_before_probes_keeps_its_digest() -> None:
    """The digest is from release 0.1.0, which had neither probes nor the processor of a measurement."""
    assert hashlib.sha256(MANIFEST.to_bytes()).hexdigest() == RELEASED


def test_only_forms_of_the_model_are_candidates() -> None:
    assert [file.variant for file in VERIFIED.candidates] == ["fp32", "int8"]
    assert VERIFIED.measurement("int8") == VERIFIED.measurements[0]
    assert VERIFIED.measurement("fp32") is None


def test_equal_content_gives_equal_bytes() -> None:
    other = dataclasses.replace(MANIFEST, params=dict(reversed(list(MANIFEST.params.items()))))
    assert other.to_bytes() == MANIFEST.to_bytes()


def test_files_are_found_by_name() -> None:
    assert MANIFEST.file().variant == "int8"
    assert MANIFEST.file("model.onnx").variant == "fp32"
    with pytest.raises(KeyError):
        MANIFEST.file("other")


FILE = {"name": "m.onnx", "variant": "fp32", "sha256": "ab" * 32, "size_bytes": 1, "media_type": "a/b"}
TENSOR = {"name": "x", "datatype": "FP32", "shape": [-1], "encoder": None, "field": "", "labels": []}
MEASUREMENT = {"variant": "fp32", "latency_ms": 1.5, "metric": "accuracy", "value": 0.5}
ENCODER = {"name": "image", "params": {}, "state": {}}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"format": 2}, ".format"),
        ({"uri": ""}, ""),
        ({"model": "a b"}, ".model"),
        ({"params": []}, ".params"),
        ({"files": []}, ".served"),
        ({"served": "../model.onnx"}, ".served"),
        ({"files": [FILE | {"name": "../../etc/passwd"}]}, ".files[0].name"),
        ({"files": [FILE | {"name": ".."}]}, ".files[0].name"),
        ({"files": [FILE | {"name": "a/b"}]}, ".files[0].name"),
        ({"files": [FILE | {"name": "a\n"}]}, ".files[0].name"),
        ({"files": [FILE, FILE], "served": "m.onnx"}, ".files"),
        ({"files": [FILE | {"sha256": "x"}]}, ".files[0].sha256"),
        ({"inputs": []}, ".inputs"),
        ({"inputs": [TENSOR, TENSOR]}, ".inputs"),
        ({"inputs": [TENSOR | {"datatype": "FLOAT"}]}, ".inputs[0].datatype"),
        ({"inputs": [TENSOR | {"shape": [-2]}]}, ".inputs[0].shape[0]"),
        ({"inputs": [TENSOR | {"shape": [1] * 99}]}, ".inputs[0].shape"),
        ({"inputs": [TENSOR | {"encoder": ENCODER | {"state": None}}]}, ".inputs[0].encoder.state"),
        ({"inputs": [TENSOR | {"encoder": ENCODER | {"name": "os.system"}}]}, None),
        ({"metrics": {"loss": "low"}}, ".metrics.loss"),
        ({"measurements": [{}]}, ".measurements[0]"),
        ({"measurements": [MEASUREMENT | {"loss": "low"}]}, ".measurements[0].loss"),
        ({"measurements": [MEASUREMENT | {"instruction_set": "a b"}]}, ".measurements[0].instruction_set"),
        ({"accepted_loss": None}, ".accepted_loss"),
        ({"probes": "none.npz"}, ".probes"),
        ({"precision": {"precision": "fp32"}}, ".precision"),
        ({"probes": "model.int8.onnx"}, ".served"),
    ],
)
def test_a_hostile_manifest_is_refused_with_its_path(changes: dict[str, Any], field: str | None) -> None:
    data = json.dumps(json.loads(MANIFEST.to_bytes()) | changes).encode()
    if field is None:  # an encoder's name is looked up in a registry, never imported
        assert ModelManifest.from_bytes(data).inputs[0].encoder == EncoderSpec("os.system")
        return
    with pytest.raises(InvalidArgument) as caught:
        ModelManifest.from_bytes(data)
    assert caught.value.reason == "BAD_MANIFEST"
    assert caught.value.field == "model_manifest" + field


@pytest.mark.parametrize("data", [b"", b"\x80", b"{}", b'{"format":NaN}', b"[" * 100_000])
def test_anything_but_a_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ModelManifest.from_bytes(data)
    assert caught.value.reason == "BAD_MANIFEST"


def test_numbers_that_are_not_finite_are_refused() -> None:
    data = MANIFEST.to_bytes().replace(b'"accuracy":0.999', b'"accuracy":1e999')
    with pytest.raises(InvalidArgument, match="not a finite number"):
        ModelManifest.from_bytes(data)
