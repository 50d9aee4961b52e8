"""Assembles the tuner from its components."""

from common.server import GrpcService
from common.server.process import ServiceProcess
from protos.tuner.v1 import tuner_pb2_grpc
from services.tuner import study_job
from services.tuner.clients.trainer import TrainerClient
from services.tuner.references import references
from services.tuner.servicer import TunerServicer
from services.tuner.settings import TunerSettings
from services.tuner.studies import StudyService
from services.tuner.study_runs import StudyRunService

__all__ = ["build", "references"]

_GRACE_S = 2.0
"""Seconds that a job gets to stop when the process shuts down: it stores its progress, and leaves its runs alone."""


def build(process: ServiceProcess[TunerSettings]) -> GrpcService:
    """Creates the gRPC service. Studies are rebuilt from the database when they are first used."""
    settings, database = process.settings, process.database
    # Calls that wait occupy at most half of the threads, so that other studies remain usable.
    max_waiting = (settings.unary_workers + settings.max_streams) // 2
    studies = StudyService(database, settings.max_studies_in_memory, max_waiting)
    trainer = TrainerClient(process.channel("trainer"))
    num_threads = {study_job.JOB_KIND: settings.max_studies_running}
    jobs = process.open_jobs(num_threads)
    handler = study_job.StudyHandler(studies, trainer)
    runner = process.run_jobs(
        jobs,
        {study_job.JOB_KIND: handler},
        grace_s=_GRACE_S,
        lease_s=settings.lease_s,
        num_threads=num_threads,
    )
    servicer = TunerServicer(studies, StudyRunService(database, jobs, runner, studies, trainer))
    process.on_drain(servicer.close)
    process.on_import(studies.forget)
    return process.grpc_service(tuner_pb2_grpc.add_TunerServiceServicer_to_server, servicer)
