"""Expiry of blobs in a directory and on a real S3 server, also beside puts of the same content."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from minio import Minio

from common.artifacts import ArtifactStore, open_store
from common.names import new_id
from tests.contracts.conftest import TEXT, StorePlace
from tests.harness.servers import S3Server


def test_a_blob_expires_unless_its_content_was_put_since(store: ArtifactStore, store_place: StorePlace) -> None:
    artifact = store.put(store_place.tenant, b"expires", TEXT)
    (stored,) = store.entries(store_place.tenant)
    assert (stored.sha256, stored.size_bytes) == (artifact.sha256, 7)
    assert abs(stored.stored_us - time.time_ns() // 1000) < 60_000_000

    assert not store.expire(store_place.tenant, artifact.sha256, stored.stored_us)
    assert store.read(store_place.tenant, artifact.sha256) == b"expires"
    assert store.expire(store_place.tenant, artifact.sha256, stored.stored_us + 2_000_000)
    assert not store.exists(store_place.tenant, artifact.sha256)
    assert not store.expire(store_place.tenant, artifact.sha256, stored.stored_us + 2_000_000)
    assert store.put(store_place.tenant, b"expires", TEXT) == artifact
    assert store.read(store_place.tenant, artifact.sha256) == b"expires"


@pytest.mark.parametrize("source", [b"again", [b"ag", b"ain"]])
def test_putting_the_same_content_again_makes_it_young(
    store: ArtifactStore, store_place: StorePlace, source: bytes | list[bytes]
) -> None:
    artifact = store.put(store_place.tenant, b"again", TEXT)
    (before,) = store.entries(store_place.tenant)
    threading.Event().wait(1.1)  # S3 counts whole seconds

    assert store.put(store_place.tenant, source, TEXT) == artifact

    (after,) = store.entries(store_place.tenant)
    assert after.stored_us >= before.stored_us + 1_000_000
    assert not store.expire(store_place.tenant, artifact.sha256, before.stored_us + 1)
    assert store.read(store_place.tenant, artifact.sha256) == b"again"


def test_a_blob_that_is_kept_is_young_again(store: ArtifactStore, store_place: StorePlace) -> None:
    artifact = store.put(store_place.tenant, b"kept", TEXT)
    (before,) = store.entries(store_place.tenant)
    threading.Event().wait(1.1)  # S3 counts whole seconds

    assert store.keep(store_place.tenant, artifact.sha256)

    assert not store.expire(store_place.tenant, artifact.sha256, before.stored_us + 1)
    assert not store.keep(store_place.tenant, "0" * 64)


@pytest.mark.faults
def test_what_a_put_has_returned_is_there_though_it_expired_meanwhile(
    store: ArtifactStore, store_place: StorePlace
) -> None:
    contents = [b"blob %d" % number for number in range(24)]
    for _ in range(3):
        artifacts = [store.put(store_place.tenant, content, TEXT) for content in contents]
        limit_us = max(one.stored_us for one in store.entries(store_place.tenant)) + 1
        threading.Event().wait(1.1)  # S3 counts whole seconds

        def put(content: bytes) -> bytes:
            return store.read(store_place.tenant, store.put(store_place.tenant, content, TEXT).sha256)

        with ThreadPoolExecutor(4) as pool:
            expired = [pool.submit(store.expire, store_place.tenant, one.sha256, limit_us) for one in artifacts]
            assert list(pool.map(put, contents)) == contents
            for future in expired:
                future.result()
        assert list(store.list(store_place.tenant)) == sorted(one.sha256 for one in artifacts)


def test_a_put_into_s3_waits_for_a_deletion_that_cannot_have_seen_it(s3_server: S3Server) -> None:
    store = open_store(
        s3_server.url, access_key_file=s3_server.access_key_file, secret_key_file=s3_server.secret_key_file
    )
    keys = (file.read_text().strip() for file in (s3_server.access_key_file, s3_server.secret_key_file))
    client, tenant = Minio(s3_server.endpoint, *keys, secure=False), new_id()
    sha256 = store.put(tenant, b"condemned", TEXT).sha256
    notice = f".expiring/{tenant}/{sha256}.other"
    client.put_object(s3_server.bucket, notice, io.BytesIO(), 0)

    with ThreadPoolExecutor(1) as pool:
        putting = pool.submit(store.put, tenant, b"condemned", TEXT)
        with pytest.raises(TimeoutError):
            putting.result(1)
        store.delete(tenant, sha256)
        client.remove_object(s3_server.bucket, notice)
        putting.result(30)

    assert store.read(tenant, sha256) == b"condemned"
