"""Assembles the coordinator from its components."""

from common.server import GrpcService
from common.server.process import ServiceProcess
from protos.federated.v1 import federated_pb2_grpc
from services.federated import run_job
from services.federated.clients.ledger import LedgerClient
from services.federated.clients.registry import RegistryClient
from services.federated.federations import FederationService
from services.federated.joining import JoinService
from services.federated.nodes import NodeStore
from services.federated.references import references
from services.federated.run_service import RunService
from services.federated.runs import RunStore
from services.federated.servicer import FederatedServicer
from services.federated.settings import FederatedSettings
from services.federated.superlink import SuperLink, engine_opener

__all__ = ["build", "references"]


def build(process: ServiceProcess[FederatedSettings]) -> GrpcService:
    """Creates the gRPC service. Runs are executed as jobs; nodes are reached through a SuperLink."""
    settings, database, store = process.settings, process.database, process.store
    channel = process.channel("registry")
    registry, budgets = RegistryClient(channel), LedgerClient(channel)
    jobs = process.open_jobs({run_job.JOB_KIND: settings.max_runs})
    runs, nodes = RunStore(database, jobs), NodeStore(database)
    superlink = SuperLink(engine_opener(settings), nodes, exclusive=not settings.superlink)
    # Registered before the jobs, so that it is stopped after them.
    process.on_start(superlink.start_if_needed, stop=superlink.close)
    handler = run_job.RunHandler(
        database,
        runs,
        nodes,
        superlink,
        store,
        registry,
        budgets,
        settings.home / "federated" / "runs",
        process.child_options,
        max_runs=settings.max_runs,
        max_restarts=settings.max_restarts,
        evaluation_s=settings.evaluation_s,
        max_round_bytes=settings.max_round_bytes,
    )
    runner = process.run_jobs(
        jobs,
        {run_job.JOB_KIND: handler},
        grace_s=settings.stop_grace_s + 2,
        lease_s=settings.lease_s,
        num_threads={run_job.JOB_KIND: settings.max_runs},
    )
    process.on_import(superlink.start_if_needed)
    federations = FederationService(database, nodes, runs, superlink)
    servicer = FederatedServicer(
        federations,
        JoinService(nodes, superlink, settings.node_address or settings.node_listen),
        RunService(database, jobs, runs, nodes, federations, runner, store, registry, budgets),
    )
    process.on_drain(servicer.close)
    return process.grpc_service(federated_pb2_grpc.add_FederatedServiceServicer_to_server, servicer)
