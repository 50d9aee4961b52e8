"""A mesh to break: all services as processes behind proxies, on a small disk or on real servers."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.artifacts import ArtifactStore
from common.channel import open_channel
from common.errors import MeshError
from deepseek.services import SERVICES
from tests.faults.trials import EMBEDDED
from tests.faults.workload import workload_settings
from tests.harness.mesh import MeshProcesses, Storage
from tests.harness.mounts import tmpfs
from tests.harness.processes import wait_until
from tests.harness.proxy import Proxy
from tests.harness.servers import PostgreSQL, postgresql_server, seaweedfs
from tests.harness.subprocesses import ServiceSubprocess

DISK = "256m"


class BrokenMesh(MeshProcesses):
    """A mesh under trial; with the embedded backend, its home is on a disk of its own.

    Attributes:
        proxies: The only way to each service, for clients and for each other.
        store_proxy: The only way to the S3 server; None if the store is a directory in `home`.
        database: The PostgreSQL server; None if each service has an SQLite file in `home`.
        database_proxy: The only way to it.
    """

    def __init__(
        self,
        home: Path,
        resources: ExitStack,
        storage: Storage | None = None,
        *,
        store_proxy: Proxy | None = None,
        database: PostgreSQL | None = None,
        database_proxy: Proxy | None = None,
    ) -> None:
        super().__init__(home, resources, storage)
        self.proxies: dict[str, Proxy] = {}
        self.store_proxy = store_proxy
        self.database = database
        self.database_proxy = database_proxy
        for name in SERVICES:
            process = self.start(name, drain_s="3", **workload_settings(name))
            self.proxies[name] = resources.enter_context(Proxy(process.address))
            self.addresses[name] = self.proxies[name].address
        for name in SERVICES:
            self.wait_until_ready(name)

    @property
    def store(self) -> ArtifactStore:
        """The artifact store."""
        address = self.file.store
        assert address is not None
        return address.open()

    def restart(self, name: str) -> float:
        """Starts a service that has ended; returns the seconds until it reported that it was ready."""
        begin = time.monotonic()
        self.services[name].start()
        self.wait_until_ready(name)
        return time.monotonic() - begin

    def wait_until_ready(self, name: str) -> None:
        """Waits until a service reports that it is ready."""
        wait_until(lambda: _is_ready(name, self.services[name].address), f"{name} to be ready")


@contextmanager
def broken_mesh(backend: str, folder: Path) -> Iterator[BrokenMesh]:
    """Starts a mesh, and ends all of it.

    Args:
        backend: As `Trial.backend`.
        folder: An empty folder.
    """
    with ExitStack() as owned:
        if backend == EMBEDDED:
            yield BrokenMesh(owned.enter_context(tmpfs(folder / "disk", DISK)) / "home", owned)
            return
        s3 = owned.enter_context(seaweedfs())
        proxy = owned.enter_context(Proxy(s3.endpoint))
        store = replace(s3.store_address, url=f"s3+http://{proxy.address}/{s3.bucket}")
        database = owned.enter_context(postgresql_server())
        database_proxy = owned.enter_context(Proxy(database.socket))
        storage = Storage(f"postgresql+psycopg://mesh@{database_proxy.address}/postgres", store)
        yield BrokenMesh(
            folder / "home",
            owned,
            storage,
            store_proxy=proxy,
            database=database,
            database_proxy=database_proxy,
        )


@contextmanager
def second(mesh: BrokenMesh, name: str) -> Iterator[ServiceSubprocess]:
    """Starts a second process of a service on the same state; until it ends, it gets all new connections."""
    first = mesh.services[name]
    other = mesh.process(name, drain_s="3", **workload_settings(name))
    try:
        other.start()
        mesh.proxies[name].redirect(other.address)
        yield other
    finally:
        mesh.proxies[name].redirect(first.address)
        other.close()


def _is_ready(name: str, address: str) -> bool:
    with contextlib.suppress(MeshError), open_channel(address, deadline_s=2, retry=False) as channel:
        request = health_pb2.HealthCheckRequest(service=SERVICES[name].contract)
        answer = health_pb2_grpc.HealthStub(channel).Check(request)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return False
