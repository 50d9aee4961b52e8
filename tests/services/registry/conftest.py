"""A registry on an SQLite file of its own."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

import services.registry
from common.artifacts import Artifact
from common.channel import open_channel
from common.database import Database, Repeatable
from protos.privacy.v1 import privacy_pb2_grpc
from protos.registry.v1 import registry_pb2_grpc
from services.registry.aliases import Aliases
from services.registry.budgets import Budgets
from services.registry.catalog import Catalog, NewVersion
from services.registry.ledger import Ledger
from services.registry.ledger_audit import AuditedDebits
from services.registry.lineage import Lineage
from services.registry.resources import Kind, Version
from services.registry.watermarks import Watermarks
from tests.harness.in_process import service_in_process
from tests.services.registry.debits import create

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


@pytest.fixture
def budgets(database: Database) -> Budgets:
    return Budgets(database)


@pytest.fixture
def ledger(database: Database, budgets: Budgets, tmp_path: Path) -> Ledger:
    """A ledger with the budget `budgets/b`."""
    create(budgets)
    return Ledger(database, AuditedDebits(tmp_path / "audit.jsonl"))


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
def channel(tmp_path: Path) -> Iterator[grpc.Channel]:
    """A channel to a real server on a free port."""
    with service_in_process("registry", tmp_path) as server, open_channel(server.address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> registry_pb2_grpc.RegistryServiceStub:
    return registry_pb2_grpc.RegistryServiceStub(channel)


@pytest.fixture
def privacy(channel: grpc.Channel) -> privacy_pb2_grpc.PrivacyServiceStub:
    return privacy_pb2_grpc.PrivacyServiceStub(channel)
