"""What references reach, also those that somebody makes up."""

from pathlib import Path

import pytest

from common.artifacts import ArtifactStore, open_store
from common.errors import FailedPrecondition
from deepseek.models.manifest import MEDIA_TYPE, ModelFile, ModelManifest, TensorSpec
from deepseek.models.probes import MEDIA_TYPE as PROBES_MEDIA_TYPE
from deepseek.upkeep.reachable import reach
from protos.upkeep.v1 import upkeep_pb2

UNKNOWN = "application/vnd.deepseek.other.v9+json"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store((tmp_path / "store").as_uri())


def put(store: ArtifactStore, tenant: str, content: bytes) -> str:
    return store.put(tenant, content, "application/octet-stream").sha256


def reference(tenant: str, sha256: str, media_type: str) -> upkeep_pb2.Reference:
    return upkeep_pb2.Reference(tenant=tenant, sha256=sha256, media_type=media_type)


@pytest.mark.parametrize("media_type", [MEDIA_TYPE, UNKNOWN])
def test_nonsense_named_a_manifest_keeps_what_its_tenant_has_and_holds_up_nobody(
    store: ArtifactStore, media_type: str
) -> None:
    nonsense, other = put(store, "mallory", b"no manifest"), put(store, "mallory", b"other")
    weights, garbage = put(store, "lab", b"weights"), put(store, "lab", b"garbage")
    manifest = ModelManifest(
        model="test",
        run="runs/test",
        dataset_version="datasets/d/versions/1",
        files=(ModelFile("model.onnx", "fp32", weights, 7),),
        served="model.onnx",
        inputs=(TensorSpec("x", "FP32", (-1, 3)),),
        outputs=(TensorSpec("y", "FP32", (-1, 3)),),
    )
    model = put(store, "lab", manifest.to_bytes())
    found = [reference("mallory", nonsense, media_type), reference("lab", model, MEDIA_TYPE)]
    reached = reach(store, found)
    assert reached.blobs == {"mallory": {nonsense, other}, "lab": {model, weights}}
    assert garbage not in reached.blobs["lab"]
    assert (reached.lost, reached.unreadable) == ({}, {"mallory": {nonsense}})


def test_a_version_keeps_its_probes(store: ArtifactStore) -> None:
    weights, probes = put(store, "lab", b"weights"), put(store, "lab", b"probes")
    manifest = ModelManifest(
        model="test",
        run="runs/test",
        dataset_version="datasets/d/versions/1",
        files=(
            ModelFile("model.onnx", "fp32", weights, 7),
            ModelFile("probes.npz", "probes", probes, 6, PROBES_MEDIA_TYPE),
        ),
        served="model.onnx",
        inputs=(TensorSpec("x", "FP32", (-1, 3)),),
        outputs=(TensorSpec("y", "FP32", (-1, 3)),),
        probes="probes.npz",
    )
    model = put(store, "lab", manifest.to_bytes())
    assert reach(store, [reference("lab", model, MEDIA_TYPE)]).blobs == {"lab": {model, weights, probes}}


def test_a_store_that_refuses_is_no_bad_manifest(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tenant: str, sha256: str) -> bytes:
        raise FailedPrecondition("STORE_ACCESS_DENIED", "no", field="store")

    monkeypatch.setattr(store, "read", refuse)
    with pytest.raises(FailedPrecondition, match="no"):
        reach(store, [reference("lab", "0" * 64, MEDIA_TYPE)])
