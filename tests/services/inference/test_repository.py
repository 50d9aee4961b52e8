"""Which version answers while versions are loaded, swapped and unloaded."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import NotFound
from services.inference.engine import Engine, Mode
from services.inference.loaded import IndexEntry
from services.inference.repository import Repository
from tests.services.inference.models import TENANT, Publisher, scale_model
from tests.services.inference.opened import ONES, PLAIN, Opened, answer, cached_files


def test_only_the_loaded_number_is_a_version(repository: Repository, publisher: Publisher) -> None:
    publisher.publish("m", scale_model(2.0))
    publisher.publish("m", scale_model(3.0))
    repository.load(TENANT, "m", "1")
    assert answer(repository, version="1") == 2.0
    for version in ("2", "01", "latest"):
        with pytest.raises(NotFound) as caught:
            repository.get(TENANT, "m", version)
        assert (caught.value.reason, caught.value.field) == ("MODEL_NOT_LOADED", "model_version")


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
                IndexEntry("loading", 1, "LOADING"),
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
