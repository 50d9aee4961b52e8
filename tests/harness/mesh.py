"""Services of one mesh as processes: what each one is told follows from its declaration."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.service import Uses
from deepseek.client import MeshFile, ServiceAddress, StoreAddress
from deepseek.embedded import Access, EmbeddedMesh, start_mesh
from deepseek.services import SERVICES
from tests.harness.stores import digests
from tests.harness.subprocesses import ServiceSubprocess


@dataclass(frozen=True)
class Storage:
    """Where the services of a mesh keep their state; by default below their home directory.

    Attributes:
        state_url: URL of the database.
        store: The artifact store.
    """

    state_url: str = ""
    store: StoreAddress | None = None

    def settings(self, name: str) -> dict[str, str]:
        """The settings from which a service learns of it."""
        found = {"state_url": self.state_url}
        if self.store and Uses.STORE in SERVICES[name].uses:
            found |= {
                "store_url": self.store.url,
                "store_access_key_file": self.store.access_key_file,
                "store_secret_key_file": self.store.secret_key_file,
            }
        return {key: value for key, value in found.items() if value}


class MeshProcesses:
    """Services that share a home directory, each a process.

    Args:
        home: Their home directory; made.
        resources: Ends them.
        storage: Where they keep their state.

    Attributes:
        home: As given.
        storage: As given.
        services: The processes by the name of the service.
        addresses: The `host:port` at which clients and other services reach each; a proxy's, if a test puts it there.
    """

    def __init__(self, home: Path, resources: ExitStack, storage: Storage | None = None) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.storage = storage or Storage()
        self.services: dict[str, ServiceSubprocess] = {}
        self.addresses: dict[str, str] = {}
        self._resources = resources

    @property
    def registry(self) -> ServiceSubprocess:
        """The registry's process."""
        return self.services["registry"]

    @property
    def file(self) -> MeshFile:
        """What clients connect with."""
        services = {name: ServiceAddress(address) for name, address in self.addresses.items()}
        return MeshFile(services, self.storage.store or StoreAddress((self.home / "store").as_uri()))

    def start(self, name: str, *, prefix: Sequence[str] = (), **settings: str) -> ServiceSubprocess:
        """Starts a service; before it, the services that it calls and that are not there yet.

        Args:
            name: Name of the service.
            prefix: What precedes its command, e.g. `unshare`.
            settings: Further settings.
        """
        for callee in SERVICES[name].calls:
            if callee not in self.addresses:
                self.start(callee)
        process = self.process(name, prefix=prefix, **settings)
        self._resources.callback(process.close)
        process.start()
        self.services[name] = process
        self.addresses[name] = process.address
        return process

    def process(self, name: str, *, prefix: Sequence[str] = (), **settings: str) -> ServiceSubprocess:
        """Returns a process of a service of this mesh, which the caller starts and closes."""
        addresses = {callee: self.addresses[callee] for callee in SERVICES[name].calls}
        told = {**self.storage.settings(name), **addresses, **settings}
        return ServiceSubprocess(name, self.home, settings=told, prefix=prefix)

    def blobs(self) -> set[str]:
        """Digests of everything in the store of the home directory."""
        return digests(self.home / "store")


@contextmanager
def embedded_mesh(home: Path, access: Access | None = None) -> Iterator[EmbeddedMesh]:
    """Runs the mesh of `deepseek up` on free ports until the block ends."""
    mesh = start_mesh(home, stay=False, free_ports=True, access=access)
    try:
        yield mesh
    finally:
        mesh.stop()
