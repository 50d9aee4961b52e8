"""A registry and an ingest service for all tests of this folder, as processes."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

import services.ingest
from common.artifacts import open_store
from common.database import Database
from common.names import new_id
from tests.harness import servers
from tests.harness.mesh import MeshProcesses
from tests.harness.subprocesses import ServiceSubprocess
from tests.services.ingest.client import IngestClient
from tests.services.ingest.state import State, open_uploads


class IngestMesh(MeshProcesses):
    """A registry and an ingest service that share a store."""

    @property
    def ingest(self) -> ServiceSubprocess:
        """Ingest's process."""
        return self.services["ingest"]

    @property
    def store(self) -> Path:
        """The store's directory."""
        return self.home / "store"

    def client(self) -> IngestClient:
        """A client with connections of its own."""
        return IngestClient(self.ingest.channel(), self.registry.channel())


def start_ingest(home: Path, owned: ExitStack, *, prefix: Sequence[str] = (), **settings: str) -> IngestMesh:
    """Starts both services.

    Args:
        home: Their home directory; made.
        owned: Ends them.
        prefix: What precedes ingest's command, e.g. `unshare`.
        settings: Further settings of ingest.
    """
    mesh = IngestMesh(home, owned)
    mesh.start("ingest", prefix=prefix, drain_s="3", **settings)
    return mesh


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IngestMesh]:
    """A mesh for tests that leave it as healthy as they found it."""
    with ExitStack() as owned:
        yield start_ingest(tmp_path_factory.mktemp("ingest") / "home", owned)


@pytest.fixture
def own_mesh(tmp_path: Path) -> Iterator[IngestMesh]:
    """A mesh for one test, to be killed and damaged."""
    with ExitStack() as owned:
        yield start_ingest(tmp_path / "home", owned)


@pytest.fixture(scope="session")
def client(mesh: IngestMesh) -> IngestClient:
    """A client of the common mesh."""
    return mesh.client()


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    with servers.postgresql() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path}/ingest.db")
    else:
        database = Database(request.getfixturevalue("postgresql_url"), schema=f"ingest_{new_id()}")
    database.migrate(Path(services.ingest.__file__).parent / "migrations")
    store = open_store(f"file://{tmp_path}/store")
    yield State(database, store, open_uploads(database, store))
    database.close()
