"""Arguments, keys and buckets that artifact stores refuse, with reason and field."""

from pathlib import Path

import pytest

from common.artifacts import ArtifactStore, open_store
from common.errors import FailedPrecondition, InvalidArgument, MeshError
from tests.contracts.conftest import ABSENT, TEXT, StorePlace
from tests.harness.servers import S3Server


@pytest.mark.parametrize("tenant", ["", "..", ".tmp", "a/b", "../a", "A", "a\n", "a\0", "x" * 64, "%2e%2e"])
def test_hostile_tenants_are_refused(store: ArtifactStore, tenant: str, tmp_path: Path) -> None:
    for call in (
        lambda: store.put(tenant, b"", TEXT),
        lambda: store.read(tenant, ABSENT),
        lambda: store.fetch(tenant, ABSENT, tmp_path / "copy"),
        lambda: store.size(tenant, ABSENT),
        lambda: store.exists(tenant, ABSENT),
        lambda: store.list(tenant),
        lambda: store.delete(tenant, ABSENT),
        lambda: store.entries(tenant),
        lambda: store.expire(tenant, ABSENT, 0),
    ):
        with pytest.raises(InvalidArgument) as caught:
            call()
        assert (caught.value.reason, caught.value.field) == ("BAD_NAME", "tenant")


@pytest.mark.parametrize("sha256", ["", "0" * 63, "0" * 65, "A" * 64, "../" + "0" * 61, "0" * 64 + "\n", "é" * 64])
def test_hostile_digests_are_refused(
    store: ArtifactStore, store_place: StorePlace, sha256: str, tmp_path: Path
) -> None:
    for call in (
        lambda: store.put(store_place.tenant, b"", TEXT, expected_sha256=sha256),
        lambda: store.read(store_place.tenant, sha256),
        lambda: store.fetch(store_place.tenant, sha256, tmp_path / "copy"),
        lambda: store.size(store_place.tenant, sha256),
        lambda: store.exists(store_place.tenant, sha256),
        lambda: store.delete(store_place.tenant, sha256),
        lambda: store.expire(store_place.tenant, sha256, 0),
    ):
        with pytest.raises(InvalidArgument) as caught:
            call()
        assert (caught.value.reason, caught.value.field) == ("BAD_DIGEST", "sha256")


@pytest.mark.parametrize("media_type", ["", "text", "text/", "text/plain\r\nX-Evil: 1", "TEXT/PLAIN"])
def test_hostile_media_types_are_refused(store: ArtifactStore, store_place: StorePlace, media_type: str) -> None:
    with pytest.raises(MeshError) as caught:
        store.put(store_place.tenant, b"", media_type)

    assert caught.value.reason == "BAD_MEDIA_TYPE"


def test_wrong_keys_are_a_clear_error(s3_server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("wrong")
    for access, secret in (
        (tmp_path / "wrong", s3_server.secret_key_file),
        (s3_server.access_key_file, tmp_path / "wrong"),
    ):
        store = open_store(s3_server.url, access_key_file=access, secret_key_file=secret)
        for call in (
            store.check,
            lambda store=store: store.put("default", b"blob", TEXT),
            lambda store=store: store.read("default", ABSENT),
            lambda store=store: store.exists("default", ABSENT),
            lambda store=store: list(store.list("default")),
        ):
            with pytest.raises(FailedPrecondition) as caught:
                call()
            assert (caught.value.reason, caught.value.field) == ("STORE_ACCESS_DENIED", "store")


def test_a_missing_bucket_is_a_clear_error(s3_server: S3Server) -> None:
    store = open_store(
        f"s3+http://{s3_server.endpoint}/nowhere",
        access_key_file=s3_server.access_key_file,
        secret_key_file=s3_server.secret_key_file,
    )
    for call in (
        store.check,
        lambda: store.put("default", b"blob", TEXT),
        lambda: store.read("default", ABSENT),
        lambda: store.exists("default", ABSENT),
        lambda: list(store.list("default")),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            call()
        assert (caught.value.reason, caught.value.field) == ("STORE_BUCKET_MISSING", "store")
