"""A registry and an ingest service for all tests of this folder, as processes."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.services.ingest.client import Client
from tests.services.processes import ServiceProcess


@dataclass(frozen=True)
class Mesh:
    """A registry and an ingest service that share a store.

    Attributes:
        registry: The registry's process.
        ingest: Ingest's process.
        store: The store's directory.
    """

    registry: ServiceProcess
    ingest: ServiceProcess
    store: Path

    def client(self) -> Client:
        """A client with connections of its own."""
        return Client(self.ingest.channel(), self.registry.channel())

    def blobs(self) -> set[str]:
        """Digests of everything in the store."""
        return {path.name for path in self.store.glob("default/sha256/*/*")}


def start_mesh(home: Path, owned: ExitStack, *, prefix: Sequence[str] = (), store_url: str = "") -> Mesh:
    """Starts both services.

    Args:
        home: Their home directory; made.
        owned: Ends them.
        prefix: What to put before ingest's command, e.g. `unshare`.
        store_url: Ingest's store; empty for the default.
    """
    home.mkdir(parents=True)
    registry = ServiceProcess("registry", home)
    owned.callback(registry.close)
    registry.start()
    settings = {"registry": registry.address, "store_url": store_url, "drain_s": "3"}
    ingest = ServiceProcess("ingest", home, settings=settings, prefix=prefix)
    owned.callback(ingest.close)
    ingest.start()
    return Mesh(registry, ingest, home / "store")


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh for tests that leave it as healthy as they found it."""
    with ExitStack() as owned:
        yield start_mesh(tmp_path_factory.mktemp("ingest") / "home", owned)


@pytest.fixture
def own_mesh(tmp_path: Path) -> Iterator[Mesh]:
    """A mesh for one test, to be killed and damaged."""
    with ExitStack() as owned:
        yield start_mesh(tmp_path / "home", owned)


@pytest.fixture(scope="session")
def client(mesh: Mesh) -> Client:
    """A client of the common mesh."""
    return mesh.client()
