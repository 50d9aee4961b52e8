"""Serves the trainer: `python -m services.trainer`, by default on 127.0.0.1:7003."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from common.artifacts import open_store
from common.jobs import JobRunner, JobStore, Lease
from common.jobs.servicer import JobServicer
from common.server import Hosted, MeshServer, make_server, run
from common.telemetry.process import open_state
from common.upkeep import servicer as upkeep
from protos.job.v1 import job_pb2_grpc
from protos.trainer.v1 import trainer_pb2_grpc
from services.trainer import attempts, exports, references, runs
from services.trainer.registry import Registry
from services.trainer.servicer import TrainerServicer
from services.trainer.settings import TrainerSettings
from services.trainer.trainer import Trainer

_MIGRATIONS = Path(__file__).parent / "migrations"


def build(settings: TrainerSettings, owned: ExitStack) -> MeshServer:
    """A bound server; what it needs closed is put on `owned`."""
    database, telemetry = open_state(settings, _MIGRATIONS, owned)
    access_key, secret_key = settings.store_access_key_file, settings.store_secret_key_file
    store = telemetry.measured(open_store(settings.store_url, access_key_file=access_key, secret_key_file=secret_key))
    registry = Registry(settings.registry, identity=settings.identity, deadline_s=settings.deadline_s)
    owned.callback(registry.close)
    at_once = {runs.JOB_KIND: settings.max_runs, exports.JOB_KIND: settings.max_exports}
    job_store = JobStore(database, max_per_tenant=settings.max_jobs_per_tenant, num_at_once=at_once)
    run_store = runs.RunStore(database, job_store)
    directory = settings.home / "trainer"
    run_handler = attempts.RunHandler(
        run_store,
        settings.home,
        directory / "runs",
        settings.for_children,
        artifacts=store,
        record=telemetry.audit.append,
        max_runs=settings.max_runs,
        max_restarts=settings.max_restarts,
        stop_grace_s=settings.stop_grace_s,
    )
    export_handler = exports.ExportHandler(
        run_store, registry, directory / "exports", settings.for_children, max_restarts=settings.max_restarts
    )
    handlers: dict[str, Callable[[Lease], None]] = {runs.JOB_KIND: run_handler, exports.JOB_KIND: export_handler}
    telemetry.watch_jobs(job_store)
    runner = JobRunner(job_store, handlers, lease_s=settings.lease_s, num_threads=at_once, tracer=telemetry.tracer)
    jobs = JobServicer(job_store)
    trainer = TrainerServicer(Trainer(database, job_store, run_store, runner, store, registry))
    add_trainer = trainer_pb2_grpc.add_TrainerServiceServicer_to_server
    hosted = [
        Hosted("deepseek.trainer.v1.TrainerService", add_trainer, trainer),
        Hosted("deepseek.job.v1.JobService", job_pb2_grpc.add_JobServiceServicer_to_server, jobs),
        upkeep.hosted(settings, database, _MIGRATIONS, references.references, on_import=runner.wake),
    ]

    def ready() -> bool:
        database.check()
        store.check()
        return True

    stop_s = settings.stop_grace_s + 2

    stops = (partial(runner.begin_stop, stop_s), trainer.close, jobs.close)
    server = make_server(settings, hosted, ready=ready, on_stop=stops, telemetry=telemetry)
    runner.start()
    owned.callback(runner.stop, stop_s)
    return server


if __name__ == "__main__":
    sys.exit(run(TrainerSettings, build))
