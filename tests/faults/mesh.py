"""A mesh to be broken: five services as processes behind proxies, on a small disk of their own or on real servers."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.artifacts import ArtifactStore
from common.channel import open_channel
from common.errors import MeshError
from deepseek.client.mesh import MeshFile, ServiceAddress, StoreAddress
from deepseek.embedded import GRPC_NAMES
from tests.faults.trials import EMBEDDED, SERVICES
from tests.mounts import tmpfs
from tests.processes import wait_until
from tests.proxy import Proxy
from tests.servers import PostgreSQL, postgresql_server, seaweedfs
from tests.services.processes import ServiceProcess

DISK = "256m"
LEASE_S = 3.0


@dataclass
class BrokenMesh:
    """A mesh under trial.

    Attributes:
        home: Home of all its services; with the embedded backend on a disk of its own.
        services: The processes.
        proxies: The only way to each of them, for clients and for each other.
        store_address: The artifact store, as services open it.
        store_proxy: The only way to the S3 server; None if the store is a directory in `home`.
        database: The PostgreSQL server; None if each service has an SQLite file in `home`.
        database_proxy: The only way to it.
    """

    home: Path
    services: dict[str, ServiceProcess]
    proxies: dict[str, Proxy]
    store_address: StoreAddress
    store_proxy: Proxy | None = None
    database: PostgreSQL | None = None
    database_proxy: Proxy | None = None

    @property
    def file(self) -> MeshFile:
        """Where clients find it."""
        services = {name: ServiceAddress(proxy.address) for name, proxy in self.proxies.items()}
        return MeshFile(services, self.store_address)

    @property
    def store(self) -> ArtifactStore:
        """The artifact store."""
        return self.store_address.open()

    def restart(self, name: str) -> float:
        """Starts a service that has ended; tells how many seconds it took until it said that it is ready."""
        begin = time.monotonic()
        self.services[name].start()
        self.wait_until_ready(name)
        return time.monotonic() - begin

    def wait_until_ready(self, name: str) -> None:
        """Waits until a service's health check says yes."""
        wait_until(lambda: _is_ready(name, self.services[name].address), f"{name} to be ready")


@contextmanager
def start_mesh(backend: str, folder: Path) -> Iterator[BrokenMesh]:
    """Starts a mesh, and ends all of it.

    Args:
        backend: As `Trial.backend`.
        folder: An empty folder.
    """
    with ExitStack() as owned:
        if backend == EMBEDDED:
            home = owned.enter_context(tmpfs(folder / "disk", DISK)) / "home"
            mesh = BrokenMesh(home, {}, {}, StoreAddress((home / "store").as_uri()))
        else:
            s3 = owned.enter_context(seaweedfs())
            proxy = owned.enter_context(Proxy(s3.endpoint))
            keys = str(s3.access_key_file), str(s3.secret_key_file)
            store_address = StoreAddress(f"s3+http://{proxy.address}/{s3.bucket}", *keys)
            database = owned.enter_context(postgresql_server())
            database_proxy = owned.enter_context(Proxy(database.socket))
            mesh = BrokenMesh(folder / "home", {}, {}, store_address, proxy, database, database_proxy)
        mesh.home.mkdir()
        for name in SERVICES:
            mesh.services[name] = ServiceProcess(name, mesh.home, settings=_settings(mesh, name))
            owned.callback(mesh.services[name].close)
            mesh.services[name].start()
            mesh.proxies[name] = owned.enter_context(Proxy(mesh.services[name].address))
        for name in SERVICES:
            mesh.wait_until_ready(name)
        yield mesh


@contextmanager
def second(mesh: BrokenMesh, name: str) -> Iterator[ServiceProcess]:
    """Starts another process of a service, with the same state, to which all new connections go meanwhile."""
    first = mesh.services[name]
    other = ServiceProcess(name, mesh.home, settings=_settings(mesh, name))
    try:
        other.start()
        mesh.proxies[name].redirect(other.address)
        yield other
    finally:
        mesh.proxies[name].redirect(first.address)
        other.close()


def _settings(mesh: BrokenMesh, name: str) -> dict[str, str]:
    settings = {"drain_s": "3"}
    if mesh.database_proxy:
        settings["state_url"] = f"postgresql+psycopg://mesh@{mesh.database_proxy.address}/postgres"
    if name == "trainer":
        settings |= {"lease_s": str(LEASE_S), "stop_grace_s": "3"}
    if name != "registry":
        settings["registry"] = mesh.proxies["registry"].address
    if name not in ("registry", "watermark"):
        settings["store_url"] = mesh.store_address.url
        if mesh.store_proxy:
            settings["store_access_key_file"] = mesh.store_address.access_key_file
            settings["store_secret_key_file"] = mesh.store_address.secret_key_file
    return settings


def _is_ready(name: str, address: str) -> bool:
    with contextlib.suppress(MeshError), open_channel(address, deadline_s=2, retry=False) as channel:
        request = health_pb2.HealthCheckRequest(service=GRPC_NAMES[name])
        answer = health_pb2_grpc.HealthStub(channel).Check(request)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return False
