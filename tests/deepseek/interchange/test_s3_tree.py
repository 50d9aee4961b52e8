"""An S3 prefix is imported like a folder."""

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from minio import Minio

from common.errors import FailedPrecondition, MeshError
from deepseek.interchange.importing import Import
from deepseek.interchange.opening import Access, open_source
from deepseek.interchange.s3_tree import S3Tree
from deepseek.interchange.schema import Wishes
from deepseek.interchange.splits import Splitter
from tests.deepseek.interchange.sources import FORMATS, PICTURES
from tests.harness import servers


@pytest.fixture(scope="module")
def server() -> Iterator[servers.S3Server]:
    with servers.seaweedfs() as server:
        yield server


def put(server: servers.S3Server, folder: Path, prefix: str) -> None:
    access, secret = (path.read_text().strip() for path in (server.access_key_file, server.secret_key_file))
    client = Minio(server.endpoint, access, secret, secure=False)
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            name = f"{prefix}/{path.relative_to(folder).as_posix()}"
            client.put_object(server.bucket, name, io.BytesIO(data), len(data))


@pytest.mark.parametrize("form", ["class folders", "hugging face", "webdataset", "csv"])
def test_a_prefix_gives_the_samples_of_the_folder(server: servers.S3Server, tmp_path: Path, form: str) -> None:
    place = FORMATS[form](tmp_path / "data", PICTURES)
    if place.is_file():
        place = place.rename(place.with_name("metadata.csv")).parent
    prefix = f"{form.replace(' ', '-')}/v1"
    put(server, place, prefix)
    put(server, place, f"{prefix}0")
    access = Access(access_key_file=server.access_key_file, secret_key_file=server.secret_key_file)
    splitter = Splitter(column="part" if form == "csv" else "")
    local, remote = (
        Import(open_source(where, access), Wishes(target="label"), splitter)
        for where in (str(place), f"{server.url}/{prefix}")
    )
    assert local.fields == remote.fields
    assert list(local) == list(remote)
    assert local.report.statistics.num_samples == len(PICTURES)


def test_what_cannot_be_read_is_named(server: servers.S3Server, tmp_path: Path) -> None:
    access = Access(access_key_file=server.access_key_file, secret_key_file=server.secret_key_file)
    with pytest.raises(MeshError) as error:
        Import(open_source(f"{server.url}/none", access))
    assert error.value.reason == "EMPTY_SOURCE"
    wrong = tmp_path / "secret"
    wrong.write_text("wrong")
    with pytest.raises(FailedPrecondition) as refused:
        open_source(f"{server.url}/none", Access(access_key_file=server.access_key_file, secret_key_file=wrong))
    assert refused.value.reason == "SOURCE_ACCESS_DENIED"
    assert "wrong" not in refused.value.message
    with pytest.raises(FailedPrecondition) as missing:
        open_source(f"{server.url}/none", Access(access_key_file=tmp_path / "none"))
    assert missing.value.reason == "STORE_KEYS_MISSING"


def test_a_key_with_two_slashes_is_kept_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ["v1/", "v1//x.png", "v1/a/", "v1/a//b.png", "v1/a/1.png", "v1/a/../2.png", "v1/3.png"]

    def list_objects(bucket: str, *, prefix: str, recursive: bool) -> Iterator[SimpleNamespace]:
        """Lists like S3: keys, and the common beginnings of keys up to the next slash."""
        below = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
        for name in sorted({key[: key.find("/") + 1] or key for key in below}):
            yield SimpleNamespace(object_name=prefix + name, size=1)

    tree = S3Tree("s3+http://localhost:1/bucket/v1", None, None)
    monkeypatch.setattr(tree, "_client", SimpleNamespace(list_objects=list_objects))
    listings = list(tree.walk())
    assert [blob.name for one in listings for blob in one.files] == ["3.png", "a/1.png"]
    assert [(bad.place, bad.reason) for one in listings for bad in one.rejected] == [
        ("/", "BAD_FILE_NAME"),
        ("a//", "BAD_FILE_NAME"),
    ]
