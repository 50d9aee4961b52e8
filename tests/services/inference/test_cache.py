"""Local copies of model files."""

import hashlib
from pathlib import Path

import pytest

from common.artifacts import ArtifactStore
from common.errors import DataLoss, NotFound
from services.inference.cache import FileCache
from tests.harness.stores import damage_store


@pytest.fixture
def sha256(store: ArtifactStore) -> str:
    return store.put("default", b"model", "application/vnd.onnx").sha256


@pytest.fixture
def cache(store: ArtifactStore, tmp_path: Path) -> FileCache:
    return FileCache(store, tmp_path / "cache")


def test_a_file_stays_until_its_last_holder_lets_go(cache: FileCache, sha256: str) -> None:
    path = cache.hold("default", sha256)
    assert cache.hold("default", sha256) == path
    cache.release("default", sha256)
    assert path.read_bytes() == b"model"
    cache.release("default", sha256)
    assert not path.exists()


def test_a_copy_that_is_whole_needs_no_store(cache: FileCache, store: ArtifactStore, sha256: str) -> None:
    path = cache.hold("default", sha256)
    store.delete("default", sha256)
    assert cache.hold("default", sha256) == path


def test_a_damaged_copy_is_fetched_anew(cache: FileCache, sha256: str) -> None:
    path = cache.hold("default", sha256)
    path.write_bytes(b"MODEL")
    assert cache.hold("default", sha256).read_bytes() == b"model"


def test_a_damaged_blob_is_never_handed_out_and_leaves_nothing(cache: FileCache, sha256: str, tmp_path: Path) -> None:
    damage_store(tmp_path, sha256)
    with pytest.raises(DataLoss) as caught:
        cache.hold("default", sha256)
    assert caught.value.reason == "BLOB_DAMAGED"
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_blob_of_another_tenant_is_not_found(cache: FileCache, sha256: str) -> None:
    cache.hold("default", sha256)
    with pytest.raises(NotFound):
        cache.hold("other", sha256)


def test_what_an_earlier_process_left_is_deleted_unless_it_is_needed(
    store: ArtifactStore, sha256: str, tmp_path: Path
) -> None:
    other = hashlib.sha256(b"other").hexdigest()
    store.put("default", b"other", "application/vnd.onnx")
    earlier = FileCache(store, tmp_path / "cache")
    kept, stale = earlier.hold("default", sha256), earlier.hold("default", other)
    FileCache(store, tmp_path / "cache").keep_only([("default", sha256)])
    assert kept.exists()
    assert not stale.exists()
