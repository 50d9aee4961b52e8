"""The process of a service: opens the parts of the mesh that the service uses, and hosts the shared gRPC services.

A service adds its own gRPC service in its function `build(process)`. The opened parts determine the readiness of the
process and the order in which it is drained and closed.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast

import grpc

from common.artifacts import ArtifactStore, open_store
from common.artifacts.servicer import ArtifactServicer
from common.channel import open_channel
from common.config import JobSettings, ServiceSettings, StoreSettings
from common.database import Database
from common.jobs import JobRunner, JobStore, Lease
from common.jobs.runner import LEASE_S, NUM_THREADS
from common.jobs.servicer import JobServicer
from common.server.server import GrpcService, MeshServer, make_server, serve
from common.server.telemetry import Telemetry
from common.service import ARTIFACT_CONTRACT, AUDIT_CONTRACT, JOB_CONTRACT, UPKEEP_CONTRACT, Uses
from common.telemetry.anchors import DatabaseAnchor
from common.upkeep.dump import References, State
from common.upkeep.records import CollectionRecords
from common.upkeep.servicer import UpkeepServicer
from protos.artifact.v1 import artifact_pb2_grpc
from protos.job.v1 import job_pb2_grpc
from protos.upkeep.v1 import upkeep_pb2_grpc

S = TypeVar("S", bound=ServiceSettings)


class ServiceProcess(Generic[S]):
    """The parts from which a service is built. Not thread-safe; used only while the service is built.

    Args:
        settings: Settings of the service.
        migrations: Folder with the revisions of the service's database.
        references: Function that returns the artifacts to which the rows of the database refer.
        resources: Objects that are closed, in reverse order, when the process exits.

    Attributes:
        settings: Settings of the service.
        database: The service's database, migrated.
        telemetry: Traces, metrics and the audit log.
        store: The artifact store; present only if the service uses it.

    Raises:
        MeshError: The database, the audit log or the metrics port cannot be used.
    """

    store: ArtifactStore

    def __init__(self, settings: S, migrations: Path, references: References, resources: ExitStack) -> None:
        self.settings = settings
        self._service = settings.service
        self._resources = resources
        self._hosted: list[GrpcService] = []
        self._checks: list[Callable[[], None]] = []
        self._conditions: list[Callable[[], bool]] = []
        self._on_start: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self._on_drain: list[Callable[[], None]] = []
        self._on_import: list[Callable[[], None]] = []
        self.database = Database(settings.state_url, schema=self._service.name)
        resources.callback(self.database.close)
        self.database.migrate(migrations)
        self._checks.append(self.database.check)
        self.telemetry = Telemetry(settings, self.database)
        resources.callback(self.telemetry.close)
        if Uses.STORE in self._service.uses:
            self.store = self.telemetry.measured(open_store(**_store_options(settings)))
            if not self._service.ready_without_store:
                self._checks.append(self.store.check)
        if Uses.ARTIFACTS in self._service.uses:
            servicer = ArtifactServicer(self.store, settings.max_message_bytes)
            add_artifacts = artifact_pb2_grpc.add_ArtifactServiceServicer_to_server
            self._hosted.append(GrpcService(ARTIFACT_CONTRACT, add_artifacts, servicer))
        state = State(self._service.name, self.database, migrations, references)
        records = CollectionRecords(settings.audit_file.parent / "collections")
        upkeep = UpkeepServicer(state, records, self._imported, settings.max_message_bytes)
        self._hosted.append(GrpcService(UPKEEP_CONTRACT, upkeep_pb2_grpc.add_UpkeepServiceServicer_to_server, upkeep))

    def channel(self, callee: str) -> grpc.Channel:
        """Opens a channel to a service that this service calls. The process closes the channel.

        Args:
            callee: Name of the service to call.
        """
        assert callee in self._service.calls, f"{self._service.name} does not declare that it calls {callee}"
        address = str(getattr(self.settings, callee))  # a field that `settings_for` added
        channel = open_channel(address, identity=self.settings.identity, deadline_s=self.settings.deadline_s)
        self._resources.callback(channel.close)
        return channel

    def open_jobs(self, num_at_once: Mapping[str, int] = MappingProxyType({})) -> JobStore:
        """Opens the service's job store, adds its jobs to the metrics, and hosts JobService.

        Args:
            num_at_once: See `JobStore`.
        """
        assert Uses.JOBS in self._service.uses, f"{self._service.name} does not declare that it uses jobs"
        max_per_tenant = cast(JobSettings, self.settings).max_jobs_per_tenant
        jobs = JobStore(self.database, max_per_tenant=max_per_tenant, num_at_once=num_at_once)
        self.telemetry.watch_jobs(jobs)
        servicer = JobServicer(jobs)
        self._hosted.append(GrpcService(JOB_CONTRACT, job_pb2_grpc.add_JobServiceServicer_to_server, servicer))
        self._on_drain.append(servicer.close)
        return jobs

    def run_jobs(
        self,
        jobs: JobStore,
        handlers: Mapping[str, Callable[[Lease], None]],
        *,
        grace_s: float,
        lease_s: float = LEASE_S,
        num_threads: int | Mapping[str, int] = NUM_THREADS,
    ) -> JobRunner:
        """Creates a job runner, which starts once the server is bound.

        Args:
            jobs: Store returned by `open_jobs`.
            handlers: Handlers by kind of job.
            grace_s: Seconds that running jobs get to stop when the process shuts down.
            lease_s: See `JobRunner`.
            num_threads: See `JobRunner`.
        """
        runner = JobRunner(jobs, handlers, lease_s=lease_s, num_threads=num_threads, tracer=self.telemetry.tracer)
        self.on_start(runner.start, stop=partial(runner.stop, grace_s))
        self._on_drain.insert(0, partial(runner.begin_stop, grace_s))  # before the watches of jobs are ended
        self.on_import(runner.wake)
        return runner

    def grpc_service(self, add: Callable[[Any, grpc.Server], None], servicer: object) -> GrpcService:
        """Returns the `GrpcService` for the service's main contract; `host` adds others.

        Args:
            add: Generated function that adds a servicer to a server.
            servicer: The servicer.
        """
        return GrpcService(self._service.contract, add, servicer)

    def host(self, contract: str, add: Callable[[Any, grpc.Server], None], servicer: object) -> None:
        """Hosts one of the service's `further_contracts`.

        Args:
            contract: Full name of the gRPC service, e.g. `deepseek.privacy.v1.PrivacyService`.
            add: Generated function that adds a servicer to a server.
            servicer: The servicer.
        """
        assert contract in self._service.further_contracts, f"{self._service.name} does not declare {contract}"
        self._hosted.append(GrpcService(contract, add, servicer))

    def ready_when(self, check: Callable[[], bool]) -> None:
        """Adds a readiness check to those of the process itself, which cover the database and the store."""
        self._conditions.append(check)

    def on_start(self, start: Callable[[], None], *, stop: Callable[[], None]) -> None:
        """Registers `start`, called once the server is bound, and `stop`, called after the server has stopped.

        The registered `stop` functions are called in reverse order.
        """
        self._on_start.append((start, stop))

    def on_drain(self, end: Callable[[], None]) -> None:
        """Registers a function that ends waiting streams. It is called when the server begins to drain."""
        self._on_drain.append(end)

    def on_import(self, resume: Callable[[], None]) -> None:
        """Registers a function that makes the service use imported rows. It is called after each import of a backup."""
        self._on_import.append(resume)

    @property
    def child_options(self) -> dict[str, Any]:
        """Members of a child process's job file: how to open the artifact store, and where to export spans."""
        options = _store_options(self.settings)
        url = options.pop("url")
        files = {f"store_{name}": str(path) if path else None for name, path in options.items()}
        return {**self.settings.trace_target.to_json(), "store_url": url, **files}

    def bind(self, own: GrpcService) -> MeshServer:
        """Binds the server and then calls the `start` functions registered with `on_start`.

        Raises:
            MeshError: The server cannot be bound; see `make_server`.
        """
        hosted = [own, *self._hosted]
        missing = set(self._service.contracts) - {one.name for one in hosted} - {AUDIT_CONTRACT}
        assert not missing, f"{self._service.name} declares {', '.join(missing)} but did not open it"
        server = make_server(
            self.settings, hosted, ready=self._ready, on_drain=self._on_drain, telemetry=self.telemetry
        )
        for start, stop in self._on_start:
            start()
            self._resources.callback(stop)
        return server

    def _ready(self) -> bool:
        for check in self._checks:
            check()
        return all(condition() for condition in self._conditions)

    def _imported(self) -> None:
        for resume in self._on_import:
            resume()


def open_service(settings: ServiceSettings, resources: ExitStack) -> MeshServer:
    """Builds a service and binds its server.

    The folder of the module that defines the settings must contain a module `service` and a folder `migrations` with
    the revisions of the database. In `service`, the function `build` creates the gRPC service, and `references` returns
    the artifacts to which the rows of the database refer.

    Args:
        settings: Settings of the service.
        resources: Resources of the service, which the caller closes once the server has stopped.

    Raises:
        MeshError: The service cannot start.
    """
    service = import_module(f"{type(settings).__module__.rpartition('.')[0]}.service")
    process = ServiceProcess(settings, Path(str(service.__file__)).parent / "migrations", service.references, resources)
    return process.bind(service.build(process))


def serve_service(settings: ServiceSettings) -> int:
    """Serves a service until SIGTERM or SIGINT.

    Returns:
        The exit status, 0.

    Raises:
        MeshError: The service cannot start.
    """
    with ExitStack() as resources:
        return serve(settings, open_service(settings, resources), close=resources.close)


def print_audit_head(settings: ServiceSettings) -> None:
    """Prints the anchored head of the audit log, so that the log can be verified while the service is stopped."""
    with closing(Database(settings.state_url, schema=settings.service.name)) as database:
        head = DatabaseAnchor(database, settings.audit_file).read()
    print(json.dumps(asdict(head) if head else None))


def _store_options(settings: ServiceSettings) -> dict[str, Any]:
    """Returns the arguments of `open_store`."""
    found = cast(StoreSettings, settings)
    return {
        "url": found.store_url,
        "access_key_file": found.store_access_key_file,
        "secret_key_file": found.store_secret_key_file,
    }
