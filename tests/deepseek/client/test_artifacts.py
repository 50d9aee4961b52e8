"""Artifacts from the store, and through the mesh for a client that does not reach the store."""

import hashlib
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.artifacts.blob import blob_key
from common.errors import DataLoss, NotFound
from common.names import DEFAULT_TENANT
from deepseek.client import Mesh
from deepseek.embedded import EmbeddedMesh, Supervisor

CONTENT = os.urandom(5 << 20)


@pytest.fixture(params=["store", "mesh"])
def client(request: pytest.FixtureRequest, embedded: EmbeddedMesh) -> Iterator[Mesh]:
    file = embedded.file if request.param == "store" else replace(embedded.file, store=None)
    with Mesh(file) as mesh:
        yield mesh


@pytest.fixture
def sha256(mesh: Mesh) -> str:
    return mesh.store.put(mesh.tenant, CONTENT, "application/octet-stream").sha256


def test_an_artifact_is_read_and_fetched(client: Mesh, sha256: str, tmp_path: Path) -> None:
    sizes: list[int] = []
    assert client.artifacts.read(sha256) == CONTENT
    path = client.artifacts.fetch(sha256, tmp_path / "file", on_bytes=sizes.append)
    assert path.read_bytes() == CONTENT
    assert sum(sizes) == len(CONTENT)


def test_an_unknown_artifact_leaves_the_file_as_it_is(client: Mesh, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"before")
    with pytest.raises(NotFound):
        client.artifacts.fetch(hashlib.sha256(b"another").hexdigest(), tmp_path / "file")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"before"}


def test_a_damaged_artifact_makes_no_file(client: Mesh, embedded: EmbeddedMesh, tmp_path: Path) -> None:
    content = os.urandom(1000)
    with embedded.connect() as mesh:
        sha256 = mesh.store.put(mesh.tenant, content, "application/octet-stream").sha256
    assert embedded.file.store
    path = Path(embedded.file.store.url.removeprefix("file://")) / blob_key(DEFAULT_TENANT, sha256)
    path.chmod(0o600)
    path.write_bytes(content[::-1])
    with pytest.raises(DataLoss) as caught:
        client.artifacts.fetch(sha256, tmp_path / "file")
    assert caught.value.reason == "BLOB_DAMAGED"
    assert list(tmp_path.iterdir()) == []
    path.unlink()


def test_a_reader_goes_on_when_the_service_is_started_again(embedded: EmbeddedMesh, sha256: str) -> None:
    with Mesh(replace(embedded.file, store=None)) as client:
        chunks = client.artifacts.chunks(sha256)
        begin = next(chunks)
        os.kill(embedded.file.services["ingest"].pid, signal.SIGKILL)
        with Supervisor(embedded, lambda text: None).client():
            rest = b"".join(chunks)
    assert begin + rest == CONTENT
