"""Which version and file a load serves; a load that is refused leaves the version before."""

from contextlib import suppress
from pathlib import Path

import pytest
from onnx import TensorProto

from common.errors import DataLoss, FailedPrecondition, InvalidArgument, MeshError, NotFound, ResourceExhausted
from deepseek.models.probes import Probes
from protos.registry.v1 import registry_pb2 as pb
from services.inference.engine import Engine, Mode
from services.inference.loaded import IndexEntry
from services.inference.repository import Repository
from tests.harness import mounts
from tests.harness.stores import damage_store
from tests.services.inference.models import TENANT, Publisher, identity_model, scale_model
from tests.services.inference.opened import Opened, answer, cached_files
from tests.services.inference.quantized import new_version, paced


def test_the_served_file_of_the_latest_version_answers(repository: Repository, publisher: Publisher) -> None:
    publisher.publish("m", scale_model(2.0))
    publisher.publish("m", scale_model(3.0))
    loaded = repository.load(TENANT, "m")
    assert (loaded.model_id, loaded.number) == ("m", 2)
    assert answer(repository) == 3.0


def test_a_version_may_be_chosen_by_number_or_alias(repository: Repository, publisher: Publisher) -> None:
    for factor in (2.0, 3.0, 4.0):
        publisher.publish("m", scale_model(factor))
    repository.load(TENANT, "m", "1")
    assert answer(repository) == 2.0
    publisher.registry.SetAlias(pb.SetAliasRequest(name="models/m/aliases/production", version="models/m/versions/2"))
    repository.load(TENANT, "m", "production")
    assert answer(repository) == 3.0
    repository.load(TENANT, "m", "latest")
    assert answer(repository) == 4.0


@pytest.mark.parametrize(
    ("model_id", "version", "error", "reason", "field"),
    [
        ("none", "", NotFound, "MODEL_NOT_FOUND", "model_name"),
        ("m", "2", NotFound, "MODEL_VERSION_NOT_FOUND", "parameters[version]"),
        ("m", "production", NotFound, "ALIAS_NOT_FOUND", "parameters[version]"),
        ("", "", InvalidArgument, "BAD_NAME", "model_name"),
        ("../m", "", InvalidArgument, "BAD_NAME", "model_name"),
        ("m", "1/../2", InvalidArgument, "BAD_NAME", "parameters[version]"),
        ("m", "0", InvalidArgument, "BAD_NAME", "parameters[version]"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_reason_and_field(
    repository: Repository,
    publisher: Publisher,
    model_id: str,
    version: str,
    error: type[MeshError],
    reason: str,
    field: str,
) -> None:
    publisher.publish("m", scale_model(2.0))
    with pytest.raises(error) as caught:
        repository.load(TENANT, model_id, version)
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert repository.index(TENANT, ready_only=True) == []


def test_a_damaged_blob_is_data_loss_and_the_old_version_goes_on(
    repository: Repository, publisher: Publisher, tmp_path: Path
) -> None:
    publisher.publish("m", scale_model(2.0))
    repository.load(TENANT, "m")
    before = cached_files(tmp_path)
    damaged = publisher.store.put(TENANT, scale_model(3.0), "application/vnd.onnx").sha256
    publisher.publish("m", scale_model(3.0))
    damage_store(tmp_path, damaged)
    with pytest.raises(DataLoss) as caught:
        repository.load(TENANT, "m")
    assert caught.value.reason == "BLOB_DAMAGED"
    assert answer(repository) == 2.0
    assert repository.get(TENANT, "m").number == 1
    assert cached_files(tmp_path) == before


@pytest.mark.parametrize(
    ("broken", "reason"),
    [(b"no model", "MODEL_BROKEN"), (identity_model(TensorProto.BFLOAT16), "UNSUPPORTED_DATATYPE")],
)
def test_a_broken_model_is_refused_and_the_old_version_goes_on(
    repository: Repository, publisher: Publisher, tmp_path: Path, broken: bytes, reason: str
) -> None:
    publisher.publish("m", scale_model(2.0))
    repository.load(TENANT, "m")
    before = cached_files(tmp_path)
    publisher.publish("m", broken)
    with pytest.raises(FailedPrecondition) as caught:
        repository.load(TENANT, "m")
    assert caught.value.reason == reason
    assert answer(repository) == 2.0
    assert cached_files(tmp_path) == before


def test_a_broken_manifest_is_refused(repository: Repository, publisher: Publisher) -> None:
    publisher.publish_manifest("m", b"{}")
    with pytest.raises(FailedPrecondition) as caught:
        repository.load(TENANT, "m")
    assert caught.value.reason == "BAD_MANIFEST"


def test_a_missing_blob_is_not_found(repository: Repository, publisher: Publisher) -> None:
    file = publisher.store.put(TENANT, scale_model(2.0), "application/vnd.onnx")
    publisher.publish("m", scale_model(2.0))
    publisher.store.delete(TENANT, file.sha256)
    with pytest.raises(NotFound) as caught:
        repository.load(TENANT, "m")
    assert caught.value.reason == "BLOB_NOT_FOUND"


@pytest.mark.faults
def test_a_full_cache_is_told_and_the_old_version_goes_on(opened: Opened, publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish("m", scale_model(2.0))
    publisher.publish("m", scale_model(3.0))
    with mounts.tmpfs(tmp_path / "cache", "64k") as cache, opened() as repository:
        repository.load(TENANT, "m", "1")
        with (cache / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(4096))
        with pytest.raises(ResourceExhausted) as caught:
            repository.load(TENANT, "m", "2")
        assert (caught.value.reason, caught.value.field) == ("DISK_FULL", "path")
        assert answer(repository) == 2.0


def test_the_file_that_is_right_and_fast_here_is_served_and_kept(
    opened: Opened, publisher: Publisher, tmp_path: Path
) -> None:
    manifest, contents = new_version()
    publisher.publish_files("m", manifest, contents)
    with opened(open_engine=paced({manifest.file("model.onnx").sha256: 0.01})) as repository:
        model = repository.load(TENANT, "m")
        assert (model.file.name, model.file.mode) == ("model.int8.onnx", "fast")
        assert cached_files(tmp_path) == [model.file.sha256]
        [entry] = repository.index(TENANT, ready_only=True)
        assert entry.reason == f"int8 on avx2: {model.file.reason}"
        assert repository.count_served() == {("m", "1", "int8", "avx2"): 1}


@pytest.mark.parametrize(
    ("probes", "error", "reason"),
    [(b"no probes", FailedPrecondition, "BAD_PROBES"), (None, NotFound, "BLOB_NOT_FOUND")],
)
def test_probes_that_are_damaged_or_missing_are_told_and_the_old_version_goes_on(
    repository: Repository,
    publisher: Publisher,
    tmp_path: Path,
    probes: bytes | None,
    error: type[MeshError],
    reason: str,
) -> None:
    publisher.publish("m", scale_model(2.0))
    repository.load(TENANT, "m")
    before = cached_files(tmp_path)
    manifest, contents = new_version()
    publisher.publish_files("m", manifest, contents | ({"probes.npz": probes} if probes else {}))
    if probes is None:
        publisher.store.delete(TENANT, manifest.file(manifest.probes).sha256)
    with pytest.raises(error) as caught:
        repository.load(TENANT, "m")
    assert caught.value.reason == reason
    assert answer(repository) == 2.0
    assert cached_files(tmp_path) == before


def test_no_file_that_agrees_is_told_with_figures_and_the_old_version_goes_on(
    repository: Repository, publisher: Publisher
) -> None:
    publisher.publish("m", scale_model(2.0))
    repository.load(TENANT, "m")
    manifest, contents = new_version()
    good = Probes.from_bytes(contents["probes.npz"])
    wrong = Probes(good.inputs, {"scores": -good.outputs["scores"]}).to_bytes()
    publisher.publish_files("m", manifest, contents | {"probes.npz": wrong})
    with pytest.raises(
        FailedPrecondition, match=r"to 64 probes by 100\.00% here, by 0\.00% where it was exported"
    ) as caught:
        repository.load(TENANT, "m")
    assert caught.value.reason == "NO_FILE_AGREES"
    assert answer(repository) == 2.0


def test_a_version_that_is_being_loaded_is_listed_and_not_served_if_it_is_deleted(
    opened: Opened, publisher: Publisher, tmp_path: Path
) -> None:
    publisher.publish("m", scale_model(2.0))
    publisher.publish("m", scale_model(3.0))
    publisher.publish("other", scale_model(4.0))
    listed: list[IndexEntry] = []

    def open_engine(path: Path, mode: Mode) -> Engine:
        listed.extend(repository.index(TENANT))
        if len(listed) > 4:
            publisher.registry.DeleteModelVersion(pb.DeleteModelVersionRequest(name="models/m/versions/2"))
        return Engine(path, mode)

    with opened(open_engine=open_engine) as repository:
        repository.load(TENANT, "m", "1")
        before = cached_files(tmp_path)
        with pytest.raises(NotFound, match="it was deleted") as caught:
            repository.load(TENANT, "m", "2")
        assert caught.value.reason == "MODEL_VERSION_NOT_FOUND"
        assert (answer(repository), cached_files(tmp_path)) == (2.0, before)
    states = [(entry.model_id, entry.number, entry.state) for entry in listed]
    assert ("m", 1, "LOADING") in states
    assert {("m", 1, "READY"), ("m", 2, "LOADING")} <= set(states)
    with opened() as restarted:
        assert answer(restarted) == 2.0
