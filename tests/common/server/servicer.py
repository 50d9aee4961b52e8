"""A servicer whose methods fail, wait or stream on demand, by the name in the request."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence

import grpc

from common.config import ServiceSettings
from common.errors import InvalidArgument, NotFound, Violation
from common.server import GrpcService, MeshServer, make_server
from common.server.telemetry import Telemetry
from protos.job.v1 import job_pb2, job_pb2_grpc

SERVICE = "deepseek.job.v1.JobService"


class ExampleServicer(job_pb2_grpc.JobServiceServicer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.entered = threading.Event()
        self.leave = threading.Event()

    def GetJob(self, request: job_pb2.GetJobRequest, context: grpc.ServicerContext) -> job_pb2.GetJobResponse:
        match request.name:
            case "wrong":
                raise InvalidArgument(
                    "BAD_NAME", "no such name", field="name", violations=[Violation("other", "also")], retry_delay_s=1.5
                )
            case "bug":
                raise ValueError("a secret")
            case "remaining":
                return job_pb2.GetJobResponse(job=job_pb2.Job(progress=context.time_remaining()))
            case "many words":
                raise InvalidArgument("BAD_NAME", "ü" * 20_000, violations=[Violation("f", "no")] * 5_000)
            case "path":
                raise NotFound("FILE_NOT_FOUND", f"no file {__file__}", field="file")
            case "not Unicode":
                raise NotFound("FILE_NOT_FOUND", "no \udcff")
            case "abort":
                context.abort(grpc.StatusCode.OUT_OF_RANGE, "gRPC's own way")
            case "signal":
                signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            case "slow":
                self.entered.set()
                self.leave.wait(30)
        return job_pb2.GetJobResponse(job=job_pb2.Job(name=request.name))

    def WatchJob(
        self, request: job_pb2.WatchJobRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.WatchJobResponse]:
        yield job_pb2.WatchJobResponse(job=job_pb2.Job(name=request.name))
        if request.name == "wrong":
            raise NotFound("JOB_NOT_FOUND", "gone")
        if request.name == "bug":
            raise ValueError("a secret")
        if request.name == "two":
            self.leave.wait(0.5)
            yield job_pb2.WatchJobResponse(job=job_pb2.Job(name="second"))
            return
        self.leave.wait(30)


def example_server(
    settings: ServiceSettings,
    servicer: ExampleServicer,
    *,
    ready: Callable[[], bool] = lambda: True,
    on_drain: Sequence[Callable[[], None]] = (),
    telemetry: Telemetry | None = None,
) -> MeshServer:
    hosted = GrpcService(SERVICE, job_pb2_grpc.add_JobServiceServicer_to_server, servicer)
    return make_server(settings, [hosted], ready=ready, on_drain=on_drain, telemetry=telemetry)


def get(stub: job_pb2_grpc.JobServiceStub, name: str) -> str:
    """Calls GetJob; returns the name in the response."""
    return str(stub.GetJob(job_pb2.GetJobRequest(name=name)).job.name)
