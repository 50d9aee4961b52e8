"""Blobs in a directory and on a real S3 server: whole or absent, verified on reading, apart for each tenant."""

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.artifacts import ArtifactStore, open_store
from common.errors import DataLoss, InvalidArgument, NotFound
from common.names import new_id
from tests.contracts.conftest import ABSENT, TEXT, StorePlace

REPOSITORY = Path(__file__).parents[2]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _process(place: StorePlace, *action: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.contracts.store_writer", *place.arguments, *action]
    return subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize("num_bytes", [0, 1, 1 << 20, (1 << 20) + 1, 20_000_000])
def test_what_is_put_can_be_read_fetched_and_measured(
    store: ArtifactStore, store_place: StorePlace, tmp_path: Path, num_bytes: int
) -> None:
    content = (b"deepseek" * (num_bytes // 8 + 1))[:num_bytes]

    artifact = store.put(store_place.tenant, content, TEXT)

    assert artifact.sha256 == _sha256(content)
    assert artifact.size_bytes == num_bytes
    assert artifact.media_type == TEXT
    assert artifact.uri == f"artifact://{store_place.tenant}/sha256/{artifact.sha256}"
    assert store.read(store_place.tenant, artifact.sha256) == content
    assert store.fetch(store_place.tenant, artifact.sha256, tmp_path / "copy").read_bytes() == content
    assert store.size(store_place.tenant, artifact.sha256) == num_bytes
    assert store.exists(store_place.tenant, artifact.sha256)


def test_bytes_a_file_and_chunks_make_the_same_blob(
    store: ArtifactStore, store_place: StorePlace, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(content)

    artifacts = {
        store.put(store_place.tenant, source, TEXT)
        for source in (content, tmp_path / "file", [content[:7], b"", content[7:]], iter([content]))
    }

    assert len(artifacts) == 1
    assert list(store.list(store_place.tenant)) == [_sha256(content)]


def test_a_second_store_sees_what_the_first_put(store: ArtifactStore, store_place: StorePlace) -> None:
    artifact = store.put(store_place.tenant, b"shared", TEXT)

    assert store_place.open().read(store_place.tenant, artifact.sha256) == b"shared"


def test_concurrent_puts_of_equal_content_make_one_blob(store: ArtifactStore, store_place: StorePlace) -> None:
    content = b"the same" * 100_000
    start = threading.Barrier(8)

    def put(index: int) -> str:
        start.wait()
        source = content if index % 2 else iter([content[:1000], content[1000:]])
        return store.put(store_place.tenant, source, TEXT).sha256

    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(put, range(8)))

    assert digests == {_sha256(content)}
    assert list(store.list(store_place.tenant)) == [_sha256(content)]
    assert store.read(store_place.tenant, _sha256(content)) == content


def test_an_expected_digest_is_held_against_the_content(store: ArtifactStore, store_place: StorePlace) -> None:
    for source in (b"content", iter([b"con", b"tent"])):
        with pytest.raises(InvalidArgument) as caught:
            store.put(store_place.tenant, source, TEXT, expected_sha256=ABSENT)
        assert (caught.value.reason, caught.value.field) == ("DIGEST_MISMATCH", "sha256")
    assert list(store.list(store_place.tenant)) == []

    artifact = store.put(store_place.tenant, b"content", TEXT, expected_sha256=_sha256(b"content"))
    assert store.read(store_place.tenant, artifact.sha256) == b"content"


def test_a_source_that_breaks_off_leaves_nothing(store: ArtifactStore, store_place: StorePlace) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half" * 1_000_000
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        store.put(store_place.tenant, broken(), TEXT)

    assert list(store.list(store_place.tenant)) == []


def test_a_blob_appears_only_after_its_last_byte(store: ArtifactStore, store_place: StorePlace) -> None:
    content = b"0123456789" * 200_000
    sha256 = _sha256(content)
    seen = []

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(content), 100_000):
            yield content[start : start + 100_000]
            seen.append(store.exists(store_place.tenant, sha256))

    store.put(store_place.tenant, chunks(), TEXT)

    assert seen == [False] * 20
    assert store.exists(store_place.tenant, sha256)


@pytest.mark.faults
def test_readers_beside_writers_never_see_half_a_blob(store: ArtifactStore, store_place: StorePlace) -> None:
    contents = [bytes([index]) * 3_000_000 for index in range(6)]
    done = threading.Event()

    def read_all() -> int:
        num_read = 0
        while not done.is_set():
            for content in contents:
                try:
                    assert store.read(store_place.tenant, _sha256(content)) == content
                    num_read += 1
                except NotFound:
                    continue
        return num_read

    with ThreadPoolExecutor(2) as readers, ThreadPoolExecutor(2) as writers:
        reading = [readers.submit(read_all) for _ in range(2)]
        try:
            for _ in range(3):
                list(writers.map(lambda content: store.put(store_place.tenant, iter([content]), TEXT), contents))
        finally:
            done.set()
        assert sum(future.result() for future in reading) > 0


@pytest.mark.faults
def test_a_writer_killed_in_mid_stream_leaves_nothing_readable(store_place: StorePlace) -> None:
    store = store_place.open()
    with _process(store_place, "half") as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        assert list(store.list(store_place.tenant)) == []
        writer.kill()

    assert list(store_place.open().list(store_place.tenant)) == []
    assert not store.exists(store_place.tenant, _sha256(b"half of it" * 500_000))


@pytest.mark.faults
@pytest.mark.parametrize("delay_s", [0.02, 0.15, 0.4])
def test_a_writer_killed_at_any_moment_leaves_all_or_nothing(
    store_place: StorePlace, tmp_path: Path, delay_s: float
) -> None:
    content = new_id().encode() * 4_000_000
    (tmp_path / "file").write_bytes(content)
    with _process(store_place, "file", str(tmp_path / "file")) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"started\n"
        threading.Event().wait(delay_s)
        writer.kill()
    store = store_place.open()

    digests = list(store.list(store_place.tenant))
    assert digests in ([], [_sha256(content)])
    if digests:
        assert store.read(store_place.tenant, digests[0]) == content
    store.put(store_place.tenant, content, TEXT)
    assert store.read(store_place.tenant, _sha256(content)) == content


def test_damage_is_found_on_reading(store: ArtifactStore, store_place: StorePlace, tmp_path: Path) -> None:
    content = bytearray(b"precious" * 300_000)
    artifact = store.put(store_place.tenant, bytes(content), TEXT)
    content[1_234_567] ^= 1
    store_place.overwrite(artifact.sha256, bytes(content))

    with pytest.raises(DataLoss) as caught:
        store.read(store_place.tenant, artifact.sha256)
    assert caught.value.reason == "BLOB_DAMAGED"
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataLoss):
        store.fetch(store_place.tenant, artifact.sha256, tmp_path / "folder" / "copy")
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_truncated_blob_is_found_on_reading_and_mended_by_a_put(
    store: ArtifactStore, store_place: StorePlace
) -> None:
    content = b"precious" * 1000
    artifact = store.put(store_place.tenant, content, TEXT)
    store_place.overwrite(artifact.sha256, content[:-1])

    with pytest.raises(DataLoss):
        store.read(store_place.tenant, artifact.sha256)
    store.put(store_place.tenant, content, TEXT)

    assert store.read(store_place.tenant, artifact.sha256) == content


def test_a_fetched_copy_replaces_a_file_and_is_the_callers_own(
    store: ArtifactStore, store_place: StorePlace, tmp_path: Path
) -> None:
    artifact = store.put(store_place.tenant, b"original", TEXT)
    (tmp_path / "copy").write_bytes(b"something older and longer")

    copy = store.fetch(store_place.tenant, artifact.sha256, tmp_path / "copy")
    assert copy.read_bytes() == b"original"
    copy.write_bytes(b"changed!")

    assert store.read(store_place.tenant, artifact.sha256) == b"original"


def test_what_is_missing_is_not_found(store: ArtifactStore, store_place: StorePlace, tmp_path: Path) -> None:
    for call in (
        lambda: store.read(store_place.tenant, ABSENT),
        lambda: store.size(store_place.tenant, ABSENT),
        lambda: store.fetch(store_place.tenant, ABSENT, tmp_path / "copy"),
    ):
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.reason == "BLOB_NOT_FOUND"
    assert not store.exists(store_place.tenant, ABSENT)
    assert not (tmp_path / "copy").exists()
    assert list(store.list(store_place.tenant)) == []


def test_tenants_share_nothing(store: ArtifactStore, store_place: StorePlace) -> None:
    other = new_id()
    artifact = store.put(store_place.tenant, b"secret", TEXT)

    assert not store.exists(other, artifact.sha256)
    with pytest.raises(NotFound):
        store.read(other, artifact.sha256)
    store.put(other, b"secret", TEXT)
    store.delete(other, artifact.sha256)
    assert store.read(store_place.tenant, artifact.sha256) == b"secret"


def test_a_tenants_name_that_begins_like_another_is_another(store: ArtifactStore, store_place: StorePlace) -> None:
    store.put(f"{store_place.tenant}.2", b"secret", TEXT)

    assert list(store.list(store_place.tenant)) == []


def test_blobs_are_listed_in_order(store: ArtifactStore, store_place: StorePlace) -> None:
    digests = [store.put(store_place.tenant, b"%d" % index, TEXT).sha256 for index in range(30)]

    assert list(store.list(store_place.tenant)) == sorted(digests)


def test_deleting_is_idempotent(store: ArtifactStore, store_place: StorePlace) -> None:
    artifact = store.put(store_place.tenant, b"gone", TEXT)

    store.delete(store_place.tenant, artifact.sha256)
    store.delete(store_place.tenant, artifact.sha256)

    assert not store.exists(store_place.tenant, artifact.sha256)
    assert list(store.list(store_place.tenant)) == []


def test_a_copy_in_another_store_is_verified(store: ArtifactStore, store_place: StorePlace, tmp_path: Path) -> None:
    artifact = store.put(store_place.tenant, b"precious" * 300_000, TEXT)
    other = open_store((tmp_path / "other").as_uri())

    assert store.copy(store_place.tenant, artifact.sha256, other)
    assert not store.copy(store_place.tenant, artifact.sha256, other)
    assert other.read(store_place.tenant, artifact.sha256) == b"precious" * 300_000
    other.delete(store_place.tenant, artifact.sha256)
    store_place.overwrite(artifact.sha256, b"preciouz" * 300_000)
    with pytest.raises(DataLoss):
        store.copy(store_place.tenant, artifact.sha256, other)
    assert list(other.list(store_place.tenant)) == []
    with pytest.raises(NotFound):
        store.copy(store_place.tenant, ABSENT, other)


def test_tenants_are_those_that_have_blobs(store: ArtifactStore, store_place: StorePlace) -> None:
    assert store_place.tenant not in store.tenants()
    artifact = store.put(store_place.tenant, b"mine", TEXT)
    store.expire(store_place.tenant, artifact.sha256, 0)

    tenants = list(store.tenants())

    assert store_place.tenant in tenants
    assert tenants == sorted(tenants)
    assert not any(tenant.startswith(".") for tenant in tenants)


def test_a_long_stream_is_not_held_in_memory(store_place: StorePlace, tmp_path: Path) -> None:
    with _process(store_place, "stream", "256", str(tmp_path / "copy")) as process:
        output, _ = process.communicate(timeout=120)

    size_mib, grown_mib = map(int, output.split())
    assert size_mib == 256
    assert (tmp_path / "copy").stat().st_size == 256 << 20
    assert grown_mib < 128


def test_a_store_that_answers_is_ready(store: ArtifactStore) -> None:
    store.check()
