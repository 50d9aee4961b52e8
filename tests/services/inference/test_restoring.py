"""Which models and files answer after a restart, with what the record and the cache still hold."""

from pathlib import Path

import pytest

from common.errors import FailedPrecondition, NotFound, Unavailable
from services.inference.engine import Engine, Mode
from services.inference.loaded import HostKind, IndexEntry
from tests.harness import mounts
from tests.harness.processes import wait_until
from tests.services.inference.models import TENANT, Publisher, scale_model
from tests.services.inference.opened import HOST, NOBODY, ONES, PLAIN, Opened, answer, cached_files
from tests.services.inference.quantized import new_version, paced

OTHER_HOST = HostKind("avx512_vnni", HOST.runtime)


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
