"""From a URL to a store."""

from pathlib import Path

import pytest

from common.artifacts import open_store
from common.artifacts.directory import DirectoryStore
from common.artifacts.s3 import S3Store
from common.errors import FailedPrecondition, InvalidArgument


def test_a_file_url_opens_a_directory(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    store = open_store(folder.as_uri())

    assert isinstance(store, DirectoryStore)
    assert folder.is_dir()


@pytest.mark.parametrize(
    "url",
    [
        "s3+http://127.0.0.1:9000/bucket",
        "s3+https://s3.example.com/bucket/",
        "s3+https://s3.example.com/bucket?region=eu-west-1",
    ],
)
def test_an_s3_url_opens_a_bucket_without_asking_the_server(tmp_path: Path, url: str) -> None:
    (tmp_path / "access").write_text("key\n")
    (tmp_path / "secret").write_text("secret\n")

    store = open_store(url, access_key_file=tmp_path / "access", secret_key_file=tmp_path / "secret")

    assert isinstance(store, S3Store)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/var/store",
        "file:store",
        "file://otherhost/store",
        "http://127.0.0.1/bucket",
        "s3+http://127.0.0.1:9000",
        "s3+http://127.0.0.1:9000/a/b",
        "s3+http:///bucket",
        "s3+http://key:secret@127.0.0.1:9000/bucket",
        "s3+http://key:secret@127.0.0.1:9000/a/b",
        "s3+http://key:secret/more@127.0.0.1:9000/bucket",
        "s3+http://127.0.0.1:9000/bucket?region=",
        "s3+http://127.0.0.1:9000/bucket?region=eu-west-1&tls=no",
        "s3+http://127.0.0.1:9000/bucket?regoin=eu-west-1",
        "s3+http://127.0.0.1:9000/bucket?region=a.b",
        "s3+http://127.0.0.1:9000/bucket#part",
        "s3+http://127.0.0.1:99999/bucket",
        "s3+http://[::1/bucket",
        "file:///store?region=eu-west-1",
        "file:///store#1",
    ],
)
def test_other_urls_are_refused_without_repeating_secrets(url: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a key")
    with pytest.raises(InvalidArgument) as caught:
        open_store(url, access_key_file=keys, secret_key_file=keys)
    assert (caught.value.reason, caught.value.field) == ("BAD_STORE_URL", "store_url")
    assert ":secret" not in str(caught.value)


def test_keys_are_read_as_editors_leave_them(tmp_path: Path) -> None:
    (tmp_path / "access").write_bytes(b"\xef\xbb\xbfmesh\r\n")
    (tmp_path / "secret").write_bytes(b"secret\r")
    store = open_store(
        "s3+http://127.0.0.1:9000/bucket",
        access_key_file=tmp_path / "access",
        secret_key_file=tmp_path / "secret",
    )
    assert isinstance(store, S3Store)
    credentials = store._client._provider.retrieve()  # type: ignore[union-attr]
    assert (credentials.access_key, credentials.secret_key) == ("mesh", "secret")


def test_keys_in_another_encoding_are_refused(tmp_path: Path) -> None:
    (tmp_path / "access").write_text("mesh", encoding="utf-16")
    with pytest.raises(FailedPrecondition, match="is UTF-16; save it as UTF-8") as caught:
        open_store("s3+http://127.0.0.1:9000/bucket", access_key_file=tmp_path / "access")
    assert (caught.value.reason, caught.value.field) == ("STORE_KEYS_MISSING", "store_access_key_file")


def test_missing_keys_are_an_error_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for path in (None, tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(FailedPrecondition) as caught:
            open_store("s3+http://127.0.0.1:9000/bucket", access_key_file=path)
        assert (caught.value.reason, caught.value.field) == ("STORE_KEYS_MISSING", "store_access_key_file")
