"""A federated run whose handler works in this process, with nodes that are simulated; all else is real."""

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import select

import services.federated
from common.artifacts import open_store
from common.channel import open_channel
from common.database import Database, Repeatable, now_us
from common.jobs import JobRunner, JobStore, Lease, LeaseLost
from deepseek.federated.run_spec import FederatedRunSpec
from protos.privacy.v1.privacy_pb2_grpc import PrivacyServiceStub
from protos.registry.v1.registry_pb2_grpc import RegistryServiceStub
from services.federated import run_job
from services.federated.clients.ledger import LedgerClient
from services.federated.clients.registry import RegistryClient
from services.federated.federation import Node
from services.federated.federations import FederationService
from services.federated.nodes import NodeStore
from services.federated.run import FederatedRun
from services.federated.run_service import RunService
from services.federated.runs import RunStore
from services.federated.superlink import SuperLink
from services.federated.tables import RoundRow, RunEventRow
from tests.deepseek.federated.simulated_nodes import Behaviour
from tests.deepseek.federated.simulation import SimulatedClock, SimulatedEngine
from tests.harness.mesh import MeshProcesses
from tests.services.federated.examples import run_spec
from tests.services.trainer.tasks import PICTURE_FIELDS, add_dataset, pictures

FINGERPRINTS = ("aa", "bb", "cc")


class KnownEngine(SimulatedEngine):
    """Nodes that are registered already."""

    def register_node(self, public_key: bytes) -> int:
        key = public_key.decode()
        return 1000 + self.fingerprints.index(key) if key in self.fingerprints else 7  # `add_nodes`

    def unregister_node(self, node_id: int) -> None:
        assert node_id not in [status.node_id for status in self.nodes()], "tests remove only nodes that it never had"


class Coordinator:
    """A federation of three simulated nodes, a registry that is a process, and what executes runs.

    Args:
        folder: For everything.
        behaviours: What nodes do; honest unless given.
        fingerprints: Fingerprints of the nodes' keys, of which the first two characters are in the nodes' names.
    """

    def __init__(
        self,
        folder: Path,
        behaviours: Mapping[str, Behaviour] | None = None,
        fingerprints: Sequence[str] = FINGERPRINTS,
    ) -> None:
        self._owned = ExitStack()
        mesh = MeshProcesses(folder / "home", self._owned)
        mesh.start("registry")
        self.channel = channel = self._owned.enter_context(open_channel(mesh.registry.address))
        self.registry = RegistryServiceStub(channel)
        self.ledger = PrivacyServiceStub(channel)
        self.store_folder = store = folder / "home" / "store"
        self.pictures = add_dataset(channel, store, "pictures", PICTURE_FIELDS, pictures())
        self.database = Database(f"sqlite:///{folder / 'federated.db'}")
        self._owned.callback(self.database.close)
        self.database.migrate(Path(services.federated.__path__[0]) / "migrations")
        self.jobs = JobStore(self.database)
        self.runs, nodes = RunStore(self.database, self.jobs), NodeStore(self.database)
        self.engine = KnownEngine(fingerprints, SimulatedClock(), behaviours=behaviours or {})
        superlink = SuperLink(lambda: self.engine, nodes)
        self.store = open_store(store.as_uri())
        options = {"store_url": store.as_uri(), "store_access_key_file": None, "store_secret_key_file": None}
        self.budgets = LedgerClient(channel)
        collaborators = (self.store, RegistryClient(channel), self.budgets)
        self.directory = folder / "runs"
        self.handler = run_job.RunHandler(
            self.database,
            self.runs,
            nodes,
            superlink,
            *collaborators,
            self.directory,
            options,
            max_runs=1,
            max_restarts=1,
            evaluation_s=600,
            max_round_bytes=1 << 30,
        )
        self.federations = federations = FederationService(self.database, nodes, self.runs, superlink)
        federations.create("default", "clinics", "", Repeatable("CreateFederation"))
        self._nodes = nodes
        self.add_nodes("clinics", fingerprints)
        runner = JobRunner(self.jobs, {})
        self.service = RunService(self.database, self.jobs, self.runs, nodes, federations, runner, *collaborators)
        self._leases: list[Lease] = []
        self._threads: list[threading.Thread] = []

    def add_nodes(self, federation: str, fingerprints: Sequence[str]) -> None:
        """Adds nodes to a federation, of which the engine need not know."""
        with self.database.transaction() as session:
            for one in fingerprints:
                self._nodes.add(session, Node("default", federation, f"n-{one[:2]}", one, one, 7, now_us()))

    def start(self, federation: str = "clinics", request_id: str = "", **changes: Any) -> FederatedRun:
        """Starts a run of the pictures."""
        spec = FederatedRunSpec.from_json(run_spec(self.pictures, **changes))
        return self.service.start("default", f"federations/{federation}", spec, Repeatable("StartRun", request_id))

    def claim(self, owner: str = "a") -> Lease:
        """Claims the job of a run."""
        lease = self.jobs.claim(owner, [run_job.JOB_KIND], 120)
        assert lease is not None
        self._leases.append(lease)
        return lease

    def execute(self, lease: Lease | None = None) -> None:
        """Executes a run until it ends, or until the lease is lost."""
        lease = lease or self.claim()
        try:
            self.handler(lease)
        except LeaseLost:
            lease.lost.set()

    def in_background(self, lease: Lease) -> threading.Thread:
        """Executes a run in a thread."""
        thread = threading.Thread(target=self.execute, args=(lease,))
        thread.start()
        self._threads.append(thread)
        return thread

    def events(self, kind: str) -> list[Mapping[str, Any]]:
        """The entries of one kind in the histories of all runs."""
        query = select(RunEventRow.payload).where(RunEventRow.kind == kind).order_by(RunEventRow.sequence)
        with self.database.snapshot() as session:
            return [json.loads(payload) for payload in session.scalars(query)]

    def rounds(self) -> list[RoundRow]:
        """The stored rounds, in order."""
        with self.database.snapshot() as session:
            return list(session.scalars(select(RoundRow).order_by(RoundRow.round, RoundRow.attempt)))

    def close(self) -> None:
        """Ends all runs that are still executed."""
        for lease in self._leases:
            lease.lost.set()
        for thread in self._threads:
            thread.join(30)
        self._owned.close()
