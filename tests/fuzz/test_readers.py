"""Whatever stands in a file that somebody else wrote, its reader takes it or says that it is not what it should be."""

import base64
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.artifacts.artifact import Artifact
from common.auth import Role
from common.auth.signing_keys import jwks, new_signing_key
from common.auth.tokens import TokenVerifier, issue_token
from common.errors import DataLoss, FailedPrecondition, InvalidArgument, MeshError, Unauthenticated
from deepseek.data import media
from deepseek.data.manifest import DatasetManifest, Field, Shard
from deepseek.data.sample import Sample
from deepseek.data.shards import encode_shard, read_shard
from deepseek.models.manifest import EncoderSpec, Measurement, ModelFile, ModelManifest, TensorSpec
from deepseek.models.probes import Probes
from deepseek.training import checkpoint
from tests.deepseek.data.samples import sound_file
from tests.fuzz.documents import documents, nested
from tests.fuzz.messages import damaged
from tests.fuzz.profile import fuzz
from tests.harness.images import image_file

SHA256 = "0" * 64
DATASET = DatasetManifest(
    (Field("picture", "image"), Field("said", "label", repeated=True, labels=("no", "yes"))),
    {"train": (Shard(SHA256, 100, 10),), "test": (Shard(SHA256, 10, 1),)},
)
MODEL = ModelManifest(
    model="test",
    run="runs/test",
    dataset_version="datasets/d/versions/1",
    params={"width": 4, "names": ["a", {"b": 0.5}]},
    files=(ModelFile("model.onnx", "fp32", SHA256, 100),),
    served="model.onnx",
    inputs=(TensorSpec("x", "FP32", (-1, 3), EncoderSpec("number", {"mean": 1}, {"seen": [1, 2]}), "n"),),
    outputs=(TensorSpec("y", "FP32", (-1, 2), labels=("no", "yes")),),
    metrics={"accuracy": 0.5},
    measurements=(Measurement("fp32", 1.5, "accuracy", 0.5, 0.0, 0.0, "avx2"),),
    accepted_loss=0.005,
)
PROBES = Probes({"x": np.arange(6.0).reshape(2, 3)}, {"y": np.eye(2, dtype=np.float32)})
ARTIFACT = Artifact(SHA256, 100, "application/json", "default")
FIELDS = (Field("n", "integer"), Field("words", "text", repeated=True), Field("blob", "bytes"))
SAMPLES = [Sample(f"k{i}", "train", {"n": i, "words": ["a", "b" * i], "blob": bytes(i)}) for i in range(5)]
STATE = {"model": {"w": torch.arange(6.0).reshape(2, 3)}, "rng": (1, 2), "lr": float("inf"), 3: [None, True, "x"]}

READERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "dataset_manifest": (DatasetManifest.from_bytes, DATASET.to_bytes()),
    "model_manifest": (ModelManifest.from_bytes, MODEL.to_bytes()),
    "artifact": (Artifact.from_json, ARTIFACT.to_json().encode()),
}
"""Readers of JSON, and a document that each takes."""


def refusal(read: Callable[[], object]) -> MeshError | None:
    """How a reader refuses, if it does; any other exception passes and fails the test."""
    try:
        read()
    except MeshError as error:
        return error
    return None


@pytest.mark.parametrize("name", READERS)
@fuzz(300)
@given(data=st.data())
def test_any_document_is_read_or_refused(name: str, data: st.DataObject) -> None:
    read, valid = READERS[name]
    document = data.draw(documents(json.loads(valid)) | damaged(valid))
    error = refusal(lambda: read(document))
    assert error is None or type(error) is InvalidArgument


@pytest.mark.parametrize("name", READERS)
def test_a_document_nested_to_the_limit_of_the_interpreter_is_read_or_refused(name: str) -> None:
    read, valid = READERS[name]
    limit = sys.getrecursionlimit()
    for place in ('"width":4', '"mean":1', '"seen":[1,2]', '"sha256":"' + SHA256 + '"'):
        if place not in valid.decode():
            continue
        key = place.partition(":")[0]
        for num_levels in (*range(limit - 200, limit + 1), 100_000):
            document = valid.decode().replace(place, f"{key}:{nested(num_levels)}").encode()
            error = refusal(lambda document=document: read(document))
            assert error is None or type(error) is InvalidArgument


@fuzz(200)
@given(data=st.data())
def test_a_damaged_shard_is_read_or_refused(data: st.DataObject) -> None:
    shard = data.draw(damaged(encode_shard(SAMPLES, FIELDS)))
    verify = data.draw(st.booleans())
    error = refusal(lambda: list(read_shard(shard, FIELDS, start=data.draw(st.integers(0, 6)), verify=verify)))
    assert error is None or type(error) is DataLoss


@fuzz(200)
@given(data=st.data())
def test_a_damaged_checkpoint_is_read_or_refused(data: st.DataObject) -> None:
    valid = checkpoint.dumps(STATE)
    error = refusal(lambda: checkpoint.loads(data.draw(damaged(valid) | checkpoints(valid))))
    assert error is None or type(error) is DataLoss


@fuzz(200)
@given(data=st.data())
def test_damaged_probes_are_read_or_refused(data: st.DataObject) -> None:
    error = refusal(lambda: Probes.from_bytes(data.draw(damaged(PROBES.to_bytes()))))
    assert error is None or error.reason == "BAD_PROBES"


@st.composite
def checkpoints(draw: st.DrawFn, valid: bytes) -> bytes:
    """A whole file of tensors whose description of the state is another."""
    (size,) = struct.unpack("<Q", valid[:8])
    header = json.loads(valid[8 : 8 + size])
    (name,) = header["__metadata__"]
    tree = json.loads(header["__metadata__"][name])
    strange = draw(documents(tree) | st.just(nested(sys.getrecursionlimit()).encode()))
    header["__metadata__"][name] = strange.decode("utf-8", "replace")
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + valid[8 + size :]


@pytest.fixture(scope="module")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A signing key, a JWKS file with its public half, and that file's content."""
    folder = tmp_path_factory.mktemp("keys")
    private, public = new_signing_key()
    (folder / "key.pem").write_bytes(private)
    (folder / "jwks.json").write_bytes(jwks([public]))
    return folder / "key.pem", folder / "jwks.json", {"keys": [public]}


@fuzz(300)
@given(data=st.data())
def test_any_token_but_a_whole_one_is_refused(
    key_files: tuple[Path, Path, dict[str, Any]], data: st.DataObject
) -> None:
    key, jwks_file, _ = key_files
    token = issue_token(key, "ana", tenant="lab", role=Role.READER, lifetime_s=3600)
    parts = token.encode().split(b".")
    number = data.draw(st.integers(0, 2))
    parts[number] = data.draw(damaged(parts[number]) | documents(_claims(parts[number])).map(_encoded))
    changed = b".".join(parts).decode("latin-1")
    error = refusal(lambda: TokenVerifier(jwks_file).verify(changed))
    # The last digit of base64 says more than the bytes need, so that another one may mean the same.
    assert type(error) is Unauthenticated or changed[:-1] == token[:-1]


def _claims(part: bytes) -> Any:
    try:
        return json.loads(_decoded(part))
    except ValueError:
        return {}


def _decoded(part: bytes) -> bytes:
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@fuzz(200)
@given(data=st.data())
def test_any_file_of_keys_is_read_or_refused(key_files: tuple[Path, Path, dict[str, Any]], data: st.DataObject) -> None:
    file = key_files[1].with_name("other.json")
    deep = st.just(nested(sys.getrecursionlimit()).encode())
    file.write_bytes(data.draw(documents(key_files[2]) | damaged(key_files[1].read_bytes()) | deep))
    error = refusal(lambda: TokenVerifier(file))
    assert error is None or type(error) is FailedPrecondition


IMAGES = {kind: image_file(kind=kind, size=(40, 30)) for kind in ("PNG", "JPEG", "WEBP")}
SOUNDS = {kind: sound_file(kind=kind) for kind in ("WAV", "FLAC", "OGG")}


@pytest.mark.parametrize("kind", IMAGES)
@fuzz(150)
@given(data=st.data())
def test_a_damaged_image_is_decoded_or_refused(kind: str, data: st.DataObject) -> None:
    image = data.draw(damaged(IMAGES[kind]))
    error = refusal(lambda: media.check_image(image))
    assert error is None or error.reason == "DAMAGED_IMAGE"


@pytest.mark.parametrize("kind", SOUNDS)
@fuzz(150)
@given(data=st.data())
def test_damaged_sound_is_decoded_or_refused(kind: str, data: st.DataObject) -> None:
    sound = data.draw(damaged(SOUNDS[kind]))
    error = refusal(lambda: media.check_audio(sound))
    assert error is None or error.reason == "DAMAGED_AUDIO"
