"""A registry on an SQLite file of its own."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import services.registry
from common.artifacts import Artifact
from common.channel import open_channel
from common.database import Database, Repeatable
from protos.registry.v1 import registry_pb2_grpc
from services.registry.aliases import Aliases
from services.registry.catalog import Catalog, NewVersion
from services.registry.lineage import Lineage
from services.registry.resources import Kind, Version
from services.registry.watermarks import Watermarks
from tests.harness.in_process import service_in_process

MIGRATIONS = Path(services.registry.__file__).parent / "migrations"


def manifest(text: str) -> Artifact:
    """The descriptor of a manifest with this content."""
    data = text.encode()
    return Artifact(hashlib.sha256(data).hexdigest(), len(data), "application/json", "default")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/registry.db")
    database.migrate(MIGRATIONS)
    yield database
    database.close()


@pytest.fixture
def catalog(database: Database) -> Catalog:
    return Catalog(database)


@pytest.fixture
def aliases(database: Database) -> Aliases:
    return Aliases(database)


@pytest.fixture
def lineage(database: Database) -> Lineage:
    return Lineage(database)


@pytest.fixture
def watermarks(database: Database) -> Watermarks:
    return Watermarks(database)


AddModel = Callable[..., Version]


@pytest.fixture
def add_model(catalog: Catalog) -> AddModel:
    """Adds a version to `models/<model_id>` with a manifest of its own."""
    contents = iter(range(1_000_000))

    def add(model_id: str = "m", *sources: str) -> Version:
        new = NewVersion(manifest(f"{model_id} {next(contents)}"), sources=sources)
        version, created = catalog.create_version(
            "default", Kind.MODEL, f"models/{model_id}", new, Repeatable("CreateModelVersion")
        )
        assert created
        return version

    return add


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[registry_pb2_grpc.RegistryServiceStub]:
    """A client of a real server on a free port."""
    with service_in_process("registry", tmp_path) as server, open_channel(server.address) as channel:
        yield registry_pb2_grpc.RegistryServiceStub(channel)
