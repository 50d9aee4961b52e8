"""Which version answers: loading, swapping, unloading, restarting."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

import services.inference
from common.artifacts import ArtifactStore
from common.channel import open_channel
from common.database import Database
from common.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from deepseek.models.probes import Probes
from protos.registry.v1 import registry_pb2 as pb
from services.inference.engine import Engine, Mode
from services.inference.registry import RegistryClient
from services.inference.repository import Host, IndexEntry, Repository
from tests import mounts
from tests.processes import wait_until
from tests.services.inference.models import TENANT, Publisher, identity_model, scale_model
from tests.services.inference.quantised import new_version, paced
from tests.services.inference.test_cache import damage_store

ONES = np.ones((1, 3), np.float32)
NOBODY = "127.0.0.1:1"
HOST = Host("avx2", "cpu, 1 threads, onnxruntime 1")
OTHER_HOST = Host("avx512_vnni", HOST.runtime)
PLAIN = "int8 on avx2: it has no 8-bit operators"


class Opened:
    """Makes repositories on one database, one cache and one store, as restarts do."""

    def __init__(self, tmp_path: Path, store: ArtifactStore, registry_address: str) -> None:
        self._tmp_path = tmp_path
        self._store = store
        self._registry_address = registry_address

    @contextmanager
    def __call__(
        self, *, registry: str = "", open_engine: Callable[..., Engine] = Engine, host: Host = HOST
    ) -> Iterator[Repository]:
        with ExitStack() as owned:
            database = Database(f"sqlite:///{self._tmp_path}/inference.db")
            owned.callback(database.close)
            database.migrate(Path(services.inference.__file__).parent / "migrations")
            channel = owned.enter_context(open_channel(registry or self._registry_address, retry=False))
            repository = Repository(
                database,
                self._store,
                RegistryClient(channel),
                self._tmp_path / "cache",
                open_engine,
                host,
                restore_delay_s=0.05,
            )
            repository.start()
            owned.callback(repository.close)
            wait_until(lambda: repository.ready, "the models to be restored")
            yield repository


@pytest.fixture
def opened(tmp_path: Path, store: ArtifactStore, registry_address: str) -> Opened:
    return Opened(tmp_path, store, registry_address)


@pytest.fixture
def repository(opened: Opened) -> Iterator[Repository]:
    with opened() as repository:
        yield repository


def answer(repository: Repository, model_id: str = "m", version: str = "") -> float:
    """What the model makes of ones: the factor it was built with."""
    [(_, result)] = repository.get(TENANT, model_id, version).engine.run({"x": ONES})
    return float(result[0, 0])


def cached_files(tmp_path: Path) -> list[str]:
    return sorted(path.stem for path in (tmp_path / "cache").rglob("*") if path.is_file())


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


def test_only_the_loaded_number_is_a_version(repository: Repository, publisher: Publisher) -> None:
    publisher.publish("m", scale_model(2.0))
    publisher.publish("m", scale_model(3.0))
    repository.load(TENANT, "m", "1")
    assert answer(repository, version="1") == 2.0
    for version in ("2", "01", "latest"):
        with pytest.raises(NotFound) as caught:
            repository.get(TENANT, "m", version)
        assert (caught.value.reason, caught.value.field) == ("MODEL_NOT_LOADED", "model_version")


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


def test_a_swap_drops_no_request_and_mixes_no_versions(repository: Repository, publisher: Publisher) -> None:
    factors = {publisher.publish("m", scale_model(factor)): factor for factor in (2.0, 3.0)}
    repository.load(TENANT, "m", "1")
    done = threading.Event()

    def ask() -> int:
        count = 0
        while not done.is_set():
            model = repository.get(TENANT, "m")
            [(_, result)] = model.engine.run({"x": ONES})
            assert result[0, 0] == factors[model.number]
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask) for _ in range(2)]
        try:
            for swap in range(10):
                repository.load(TENANT, "m", str(swap % 2 + 1))
        finally:
            done.set()
        assert min(future.result() for future in asked) > 10


def test_a_replaced_version_leaves_memory_and_disk(
    repository: Repository, publisher: Publisher, tmp_path: Path
) -> None:
    publisher.publish("m", scale_model(2.0))
    publisher.publish("m", scale_model(3.0))
    old = weakref.ref(repository.load(TENANT, "m", "1").engine)
    files = cached_files(tmp_path)
    new = repository.load(TENANT, "m", "2")
    gc.collect()
    assert old() is None
    assert cached_files(tmp_path) == [new.file.sha256] != files


def test_a_request_under_way_keeps_its_engine_through_an_unload(repository: Repository, publisher: Publisher) -> None:
    publisher.publish("m", scale_model(2.0))
    repository.load(TENANT, "m")
    under_way = repository.get(TENANT, "m")
    repository.unload(TENANT, "m")
    [(_, result)] = under_way.engine.run({"x": ONES})
    assert result[0, 0] == 2.0
    freed = weakref.ref(under_way.engine)
    del under_way
    gc.collect()
    assert freed() is None


def test_an_unloaded_model_is_gone_from_disk_and_record(opened: Opened, publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish("m", scale_model(2.0))
    with opened() as repository:
        repository.load(TENANT, "m")
        repository.unload(TENANT, "m")
        with pytest.raises(NotFound):
            repository.get(TENANT, "m")
        with pytest.raises(NotFound) as caught:
            repository.unload(TENANT, "m")
        assert (caught.value.reason, caught.value.field) == ("MODEL_NOT_LOADED", "model_name")
        assert cached_files(tmp_path) == []
    with opened() as restarted, pytest.raises(NotFound):
        restarted.get(TENANT, "m")


def test_models_that_share_a_file_do_not_lose_it(repository: Repository, publisher: Publisher, tmp_path: Path) -> None:
    for model_id in ("a", "b"):
        publisher.publish(model_id, scale_model(2.0))
        repository.load(TENANT, model_id)
    assert len(cached_files(tmp_path)) == 1
    repository.unload(TENANT, "a")
    assert len(cached_files(tmp_path)) == 1
    assert answer(repository, "b") == 2.0
    repository.unload(TENANT, "b")
    assert cached_files(tmp_path) == []


def test_loading_what_answers_already_changes_nothing(repository: Repository, publisher: Publisher) -> None:
    publisher.publish("m", scale_model(2.0))
    first = repository.load(TENANT, "m")
    assert repository.load(TENANT, "m", "1") is first


def test_a_restart_loads_again_without_registry_and_store(opened: Opened, publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish("m", scale_model(2.0))
    with opened() as repository:
        loaded = repository.load(TENANT, "m", "1")
    publisher.store.delete(TENANT, loaded.file.sha256)
    publisher.store.delete(TENANT, loaded.manifest_sha256)
    with opened(registry=NOBODY) as restarted:
        assert answer(restarted) == 2.0
        assert restarted.get(TENANT, "m").number == 1
        assert restarted.index(TENANT, ready_only=True) == [IndexEntry("m", 1, "READY", PLAIN)]
        with pytest.raises(Unavailable):
            restarted.load(TENANT, "m")
        with pytest.raises(Unavailable):
            restarted.index(TENANT)
        assert answer(restarted) == 2.0


def test_a_model_that_cannot_be_restored_says_so_and_comes_back_when_it_can(
    opened: Opened, publisher: Publisher, tmp_path: Path
) -> None:
    publisher.publish("m", scale_model(2.0))
    publisher.publish("n", scale_model(5.0))
    with opened() as repository:
        file_sha256 = repository.load(TENANT, "m").file.sha256
        repository.load(TENANT, "n")
    [cached] = (tmp_path / "cache").rglob(f"{file_sha256}*")
    cached.write_bytes(b"damaged")
    publisher.store.delete(TENANT, file_sha256)
    with opened() as restarted:
        with pytest.raises(Unavailable) as caught:
            restarted.get(TENANT, "m")
        assert caught.value.reason == "MODEL_UNAVAILABLE"
        assert caught.value.retry_delay_s
        assert answer(restarted, "n") == 5.0

        def shown() -> IndexEntry:
            return next(entry for entry in restarted.index(TENANT) if entry.model_id == "m")

        # In between it is tried again.
        wait_until(lambda: shown().state == "UNAVAILABLE" and bool(shown().reason), "the reason to be shown")
        assert shown().number == 1
        publisher.store.put(TENANT, scale_model(2.0), "application/vnd.onnx")
        wait_until(lambda: len(restarted.index(TENANT, ready_only=True)) == 2, "the model to come back")
        assert answer(restarted) == 2.0


def test_a_model_that_waits_to_be_restored_can_be_unloaded(
    opened: Opened, publisher: Publisher, tmp_path: Path
) -> None:
    publisher.publish("m", scale_model(2.0))
    with opened() as repository:
        file_sha256 = repository.load(TENANT, "m").file.sha256
    for path in (tmp_path / "cache").rglob(f"{file_sha256}*"):
        path.unlink()
    publisher.store.delete(TENANT, file_sha256)
    with opened() as restarted:
        restarted.unload(TENANT, "m")
        with pytest.raises(NotFound):
            restarted.get(TENANT, "m")


def test_the_index_tells_loaded_loading_and_other_models(opened: Opened, publisher: Publisher) -> None:
    opening, go_on = threading.Event(), threading.Event()

    class SlowEngine(Engine):
        def __init__(self, path: Path, mode: Mode = "fast") -> None:
            opening.set()
            assert go_on.wait(30)
            super().__init__(path, mode)

    for model_id in ("loaded", "loading", "other"):
        publisher.publish(model_id, scale_model(2.0))
    with opened() as repository:
        repository.load(TENANT, "loaded")
    go_on.set()
    with opened(open_engine=SlowEngine) as repository, ThreadPoolExecutor(1) as pool:
        opening.clear()
        go_on.clear()
        loading = pool.submit(repository.load, TENANT, "loading")
        try:
            assert opening.wait(30)
            assert repository.index(TENANT) == [
                IndexEntry("loaded", 1, "READY", PLAIN),
                IndexEntry("loading", None, "LOADING"),
                IndexEntry("other", None, "UNAVAILABLE", "it is not loaded"),
            ]
            assert repository.index(TENANT, ready_only=True) == [IndexEntry("loaded", 1, "READY", PLAIN)]
            assert answer(repository, "loaded") == 2.0
        finally:
            go_on.set()
        loading.result(timeout=30)
        assert answer(repository, "loading") == 2.0


def test_racing_loads_leave_the_last_one_and_one_file(
    repository: Repository, publisher: Publisher, tmp_path: Path
) -> None:
    factors = {publisher.publish("m", scale_model(factor)): factor for factor in (2.0, 3.0, 4.0)}
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda number: repository.load(TENANT, "m", str(number)), [*factors] * 4))
    model = repository.get(TENANT, "m")
    assert answer(repository) == factors[model.number]
    assert cached_files(tmp_path) == [model.file.sha256]


def test_tenants_do_not_share_models(repository: Repository, publisher: Publisher) -> None:
    publisher.publish("m", scale_model(2.0))
    repository.load(TENANT, "m")
    with pytest.raises(NotFound):
        repository.get("other", "m")
    assert repository.index("other", ready_only=True) == []


@pytest.mark.faults
def test_a_cache_that_cannot_be_written_is_told_and_stops_no_other_model(
    opened: Opened, publisher: Publisher, tmp_path: Path
) -> None:
    for model_id, factor in (("m", 2.0), ("n", 5.0)):
        publisher.publish(model_id, scale_model(factor))
    with mounts.tmpfs(tmp_path / "cache") as cache:
        with opened() as repository:
            lost = repository.load(TENANT, "m").file.sha256
            repository.load(TENANT, "n")
        for path in cache.rglob(f"{lost}*"):
            path.unlink()
        mounts.make_read_only(cache)
        with opened() as restarted:
            assert answer(restarted, "n") == 5.0
            with pytest.raises(Unavailable, match="Read-only file system") as waiting:
                restarted.get(TENANT, "m")
            assert waiting.value.reason == "MODEL_UNAVAILABLE"
            wait_until(
                lambda: (
                    [(e.number, e.state) for e in restarted.index(TENANT) if e.model_id == "m"] == [(1, "UNAVAILABLE")]
                ),
                "the pause between two tries",
            )
            with pytest.raises(FailedPrecondition) as caught:
                restarted.load(TENANT, "m")
            assert (caught.value.reason, caught.value.field) == ("DISK_READ_ONLY", "path")
            restarted.unload(TENANT, "n")


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


def test_a_bug_with_one_model_keeps_no_other_from_being_restored(opened: Opened, publisher: Publisher) -> None:
    class Buggy(Engine):
        def __init__(self, path: Path, mode: Mode = "fast") -> None:
            super().__init__(path, mode)
            [(_, result)] = self.run({"x": ONES})
            if result[0, 0] == 2.0:
                raise ZeroDivisionError("a bug")

    for model_id, factor in (("m", 2.0), ("n", 5.0)):
        publisher.publish(model_id, scale_model(factor))
    with opened() as repository:
        for model_id in ("m", "n"):
            repository.load(TENANT, model_id)
    with opened(open_engine=Buggy) as restarted:
        assert answer(restarted, "n") == 5.0
        with pytest.raises(Unavailable, match="internal error"):
            restarted.get(TENANT, "m")


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


def test_a_restart_on_the_same_kind_of_host_keeps_the_choice(opened: Opened, publisher: Publisher) -> None:
    manifest, contents = new_version()
    publisher.publish_files("m", manifest, contents)
    fp32, int8 = (manifest.file(name).sha256 for name in ("model.onnx", "model.int8.onnx"))
    with opened(open_engine=paced({fp32: 0.01})) as repository:
        first = repository.load(TENANT, "m").file
    publisher.store.delete(TENANT, manifest.file(manifest.probes).sha256)
    with opened(open_engine=paced({int8: 0.01}), registry=NOBODY) as restarted:
        assert restarted.get(TENANT, "m").file == first


def test_a_restart_on_another_kind_of_host_chooses_again(opened: Opened, publisher: Publisher, tmp_path: Path) -> None:
    manifest, contents = new_version()
    publisher.publish_files("m", manifest, contents)
    fp32, int8 = (manifest.file(name).sha256 for name in ("model.onnx", "model.int8.onnx"))
    with opened(open_engine=paced({fp32: 0.01})) as repository:
        assert repository.load(TENANT, "m").file.variant == "int8"
    for _ in range(2):  # the second time from the record
        with opened(open_engine=paced({int8: 0.01}), registry=NOBODY, host=OTHER_HOST) as restarted:
            assert restarted.get(TENANT, "m").file.variant == "fp32"
            assert restarted.count_served() == {("m", "1", "fp32", "avx512_vnni"): 1}
            assert cached_files(tmp_path) == [fp32]


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
