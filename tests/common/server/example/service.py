"""How the example is put together."""

from collections.abc import Iterable
from functools import partial

from sqlalchemy.orm import Session

from common.server import GrpcService
from common.server.process import ServiceProcess
from common.upkeep.dump import Reference
from protos.job.v1 import job_pb2_grpc
from tests.common.server.example.settings import Settings
from tests.common.server.servicer import ExampleServicer


def references(session: Session) -> Iterable[Reference]:
    return ()


def build(process: ServiceProcess[Settings]) -> GrpcService:
    process.on_start(lambda: None, stop=partial(print, "closed", flush=True))
    return process.grpc_service(job_pb2_grpc.add_JobServiceServicer_to_server, ExampleServicer())
