"""Assembles ingest from its components."""

from common.server import GrpcService
from common.server.process import ServiceProcess
from protos.ingest.v1 import ingest_pb2_grpc
from services.ingest import commit_job
from services.ingest.checks import Checks
from services.ingest.clients.registry import RegistryClient
from services.ingest.expiry import Expiry
from services.ingest.quarantine import QuarantineReader
from services.ingest.reader import Reader
from services.ingest.references import references
from services.ingest.servicer import IngestServicer
from services.ingest.settings import IngestSettings
from services.ingest.uploads import Uploads
from services.ingest.writer import Limits

__all__ = ["build", "references"]


def build(process: ServiceProcess[IngestSettings]) -> GrpcService:
    """Creates the gRPC service. It is ready even while the registry is down.

    Commits then wait for the registry, and reads fail.
    """
    settings, database, store = process.settings, process.database, process.store
    registry = RegistryClient(process.channel("registry"))
    jobs = process.open_jobs()
    handlers = {commit_job.JOB_KIND: commit_job.CommitHandler(database, store, registry)}
    runner = process.run_jobs(jobs, handlers, grace_s=settings.drain_s)
    limits = Limits(settings.max_upload_bytes, settings.max_open_bytes, settings.max_message_bytes)
    checks = Checks()
    process.on_start(lambda: None, stop=checks.close)
    uploads = Uploads(database, store, jobs, registry, runner.wake, checks, limits)
    expiry = Expiry(uploads, process.telemetry.audit, settings.upload_expiry_days * 24 * 3600)
    process.on_start(expiry.start, stop=expiry.stop)
    reader = Reader(store, registry, max_message_bytes=settings.max_message_bytes)
    quarantines = QuarantineReader(database, store, registry)
    servicer = IngestServicer(uploads, reader, quarantines, max_message_bytes=settings.max_message_bytes)
    return process.grpc_service(ingest_pb2_grpc.add_IngestServiceServicer_to_server, servicer)
