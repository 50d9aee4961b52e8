"""Serves ingest: `python -m services.ingest`, by default on 127.0.0.1:7002."""

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from common.artifacts import open_store
from common.artifacts import servicer as artifacts
from common.channel import open_channel
from common.jobs import JobRunner, JobStore
from common.jobs.servicer import JobServicer
from common.server import Hosted, MeshServer, make_server, run
from common.telemetry.process import open_state
from common.upkeep import servicer as upkeep
from protos.ingest.v1 import ingest_pb2_grpc
from protos.job.v1 import job_pb2_grpc
from services.ingest.commit import Commits
from services.ingest.expiry import Expiry
from services.ingest.reader import Reader
from services.ingest.references import references
from services.ingest.registry import Registry
from services.ingest.servicer import IngestServicer
from services.ingest.settings import IngestSettings
from services.ingest.uploads import COMMIT_KIND, Uploads
from services.ingest.writer import Limits

_MIGRATIONS = Path(__file__).parent / "migrations"


def build(settings: IngestSettings, owned: ExitStack) -> MeshServer:
    """A bound server, not yet started, whose jobs are being taken up; `owned` closes what it needs after it."""
    database, telemetry = open_state(settings, _MIGRATIONS, owned)
    store = telemetry.measured(
        open_store(
            settings.store_url,
            access_key_file=settings.store_access_key_file,
            secret_key_file=settings.store_secret_key_file,
        )
    )
    channel = open_channel(settings.registry, identity=settings.identity, deadline_s=settings.deadline_s)
    owned.callback(channel.close)
    registry, jobs = Registry(channel), JobStore(database, max_per_tenant=settings.max_jobs_per_tenant)
    telemetry.watch_jobs(jobs)
    commits = Commits(database, store, registry)
    runner = JobRunner(jobs, {COMMIT_KIND: commits.run}, tracer=telemetry.tracer)
    limits = Limits(settings.max_upload_bytes, settings.max_open_bytes, settings.max_message_bytes)
    uploads = Uploads(database, store, jobs, runner.wake, limits)
    expiry = Expiry(uploads, telemetry.audit, settings.upload_expiry_days * 24 * 3600)
    reader = Reader(store, registry, max_message_bytes=settings.max_message_bytes)
    servicer = IngestServicer(uploads, reader, max_message_bytes=settings.max_message_bytes)

    def ready() -> bool:
        # The registry is left out: without it samples still come in, and commits wait for it.
        database.check()
        store.check()
        return True

    job_servicer = JobServicer(jobs)
    hosted = [
        Hosted("deepseek.ingest.v1.IngestService", ingest_pb2_grpc.add_IngestServiceServicer_to_server, servicer),
        artifacts.hosted(store, max_message_bytes=settings.max_message_bytes),
        Hosted("deepseek.job.v1.JobService", job_pb2_grpc.add_JobServiceServicer_to_server, job_servicer),
        upkeep.hosted(settings, database, _MIGRATIONS, references, on_import=runner.wake),
    ]
    stops = (partial(runner.begin_stop, settings.drain_s), job_servicer.close)
    server = make_server(settings, hosted, ready=ready, on_stop=stops, telemetry=telemetry)
    runner.start()
    owned.callback(runner.stop, settings.drain_s)
    expiry.start()
    owned.callback(expiry.stop)
    return server


if __name__ == "__main__":
    sys.exit(run(IngestSettings, build))
