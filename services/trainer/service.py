"""Assembles the trainer from its components."""

from collections.abc import Callable

from common.jobs import Lease
from common.server import GrpcService
from common.server.process import ServiceProcess
from protos.trainer.v1 import trainer_pb2_grpc
from services.trainer import export_job, import_job, run_job
from services.trainer.clients.ledger import LedgerClient
from services.trainer.clients.registry import RegistryClient
from services.trainer.directives import DirectiveStore
from services.trainer.exports import ExportStore
from services.trainer.imports import ImportService
from services.trainer.mailboxes import Mailboxes
from services.trainer.private_runs import PrivateRuns
from services.trainer.references import references
from services.trainer.run_service import RunService
from services.trainer.runs import RunStore
from services.trainer.servicer import TrainerServicer
from services.trainer.settings import TrainerSettings
from services.trainer.steering import SteeringService

__all__ = ["build", "references"]


def build(process: ServiceProcess[TrainerSettings]) -> GrpcService:
    """Creates the gRPC service. Runs, exports and imports are executed as jobs, in child processes."""
    settings, database, store = process.settings, process.database, process.store
    registry = RegistryClient(process.channel("registry"))
    private_runs = PrivateRuns(LedgerClient(process.channel("registry")))
    at_once = {
        run_job.JOB_KIND: settings.max_runs,
        export_job.JOB_KIND: settings.max_exports,
        import_job.JOB_KIND: settings.max_exports,
    }
    jobs = process.open_jobs(at_once)
    runs = RunStore(database, jobs)
    directives = DirectiveStore(database, runs)
    mailboxes = Mailboxes(directives)
    directory = settings.home / "trainer"
    run_handler = run_job.RunHandler(
        runs,
        settings.home,
        directory / "runs",
        process.child_options,
        artifacts=store,
        record=process.telemetry.audit.append,
        private_runs=private_runs,
        directives=directives,
        mailboxes=mailboxes,
        max_runs=settings.max_runs,
        max_restarts=settings.max_restarts,
        stop_grace_s=settings.stop_grace_s,
    )
    export_handler = export_job.ExportHandler(
        runs,
        ExportStore(database),
        registry,
        private_runs,
        directory / "exports",
        process.child_options,
        artifacts=store,
        max_restarts=settings.max_restarts,
    )
    trace = {name: value for name, value in process.child_options.items() if not name.startswith("store_")}
    import_handler = import_job.ImportHandler(
        registry, directory / "imports", store, trace, timeout_s=settings.import_timeout_s
    )
    handlers: dict[str, Callable[[Lease], None]] = {
        run_job.JOB_KIND: run_handler,
        export_job.JOB_KIND: export_handler,
        import_job.JOB_KIND: import_handler,
    }
    grace_s = settings.stop_grace_s + 2
    runner = process.run_jobs(jobs, handlers, grace_s=grace_s, lease_s=settings.lease_s, num_threads=at_once)
    servicer = TrainerServicer(
        RunService(database, jobs, runs, runner, store, registry, private_runs),
        ImportService(database, jobs, runner, store),
        SteeringService(runs, directives, mailboxes),
    )
    process.on_drain(servicer.close)
    return process.grpc_service(trainer_pb2_grpc.add_TrainerServiceServicer_to_server, servicer)
