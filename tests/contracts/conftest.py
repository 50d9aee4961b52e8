"""Every implementation of an interface, as a fixture: the suites beside this file run once for each."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from minio import Minio

from common.artifacts import ArtifactStore, open_store
from common.artifacts.measured import MeasuredStore
from common.database import Database
from common.names import new_id
from tests.harness import servers

TEXT = "text/plain"
"""Media type of the blobs of tests."""
ABSENT = "0" * 64
"""Digest of a blob that no store has."""


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    with servers.postgresql() as url:
        yield url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[servers.S3Server]:
    with servers.seaweedfs() as server:
        yield server


@dataclass(frozen=True)
class DatabasePlace:
    """A migrated database of the test's own, which any process can open."""

    url: str
    schema: str

    def open(self) -> Database:
        return Database(self.url, schema=self.schema)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_place(request: pytest.FixtureRequest, tmp_path: Path) -> DatabasePlace:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/state/test.db"
    else:
        url = request.getfixturevalue("postgresql_url")
    return DatabasePlace(url, f"test_{new_id()}")


@pytest.fixture
def database(database_place: DatabasePlace) -> Iterator[Database]:
    database = database_place.open()
    database.migrate()
    yield database
    database.close()


@dataclass(frozen=True)
class StorePlace:
    """An artifact store that any process can open, and a tenant of the test's own.

    Attributes:
        overwrite: Replaces a stored blob's bytes behind the store's back.
    """

    url: str
    access_key_file: Path | None
    secret_key_file: Path | None
    tenant: str
    overwrite: Callable[[str, bytes], None]

    def open(self) -> ArtifactStore:
        return open_store(self.url, access_key_file=self.access_key_file, secret_key_file=self.secret_key_file)

    @property
    def arguments(self) -> list[str]:
        """For a process that opens it."""
        return [self.url, str(self.access_key_file or ""), str(self.secret_key_file or ""), self.tenant]


@pytest.fixture(params=["directory", "s3"])
def store_place(request: pytest.FixtureRequest, tmp_path: Path) -> StorePlace:
    tenant = new_id()
    if request.param == "directory":

        def overwrite_file(sha256: str, content: bytes) -> None:
            path = tmp_path / "store" / tenant / "sha256" / sha256[:2] / sha256
            path.chmod(0o600)
            path.write_bytes(content)

        return StorePlace((tmp_path / "store").as_uri(), None, None, tenant, overwrite_file)
    server: servers.S3Server = request.getfixturevalue("s3_server")

    def overwrite_object(sha256: str, content: bytes) -> None:
        path = tmp_path / hashlib.sha256(content).hexdigest()
        path.write_bytes(content)
        keys = (file.read_text().strip() for file in (server.access_key_file, server.secret_key_file))
        client = Minio(server.endpoint, *keys, secure=False)
        client.fput_object(server.bucket, f"{tenant}/sha256/{sha256[:2]}/{sha256}", str(path))

    return StorePlace(server.url, server.access_key_file, server.secret_key_file, tenant, overwrite_object)


@pytest.fixture(params=["bare", "measured"])
def store(request: pytest.FixtureRequest, store_place: StorePlace) -> ArtifactStore:
    store = store_place.open()
    return store if request.param == "bare" else MeasuredStore(store, lambda operation, outcome, seconds: None)
