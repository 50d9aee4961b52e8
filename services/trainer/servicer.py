"""TrainerService over the trainer: protobuf to domain and back, nothing else."""

import threading
from collections.abc import Iterator

import grpc
from google.protobuf.message import Message

from common.errors import Unavailable
from common.jobs.proto import job_to_proto
from common.server import caller
from deepseek.models.selection import DEFAULT_ACCEPTED_LOSS
from protos.trainer.v1 import trainer_pb2 as pb
from protos.trainer.v1 import trainer_pb2_grpc
from services.trainer.codec import event_to_proto, read_spec, run_to_proto
from services.trainer.trainer import Trainer


class TrainerServicer(trainer_pb2_grpc.TrainerServiceServicer):
    """Answers TrainerService; the proto documents every call.

    Args:
        trainer: What it answers for.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._lock = threading.Lock()
        self._closed = False
        self._watches: set[threading.Event] = set()

    def SubmitRun(self, request: pb.SubmitRunRequest, context: grpc.ServicerContext) -> pb.SubmitRunResponse:
        run, reused = self._trainer.submit(
            caller(context).tenant,
            read_spec(request.spec),
            reuse=request.reuse,
            request_id=request.request_id,
            body=_body(request),
        )
        return pb.SubmitRunResponse(run=run_to_proto(run), reused=reused)

    def GetRun(self, request: pb.GetRunRequest, context: grpc.ServicerContext) -> pb.GetRunResponse:
        return pb.GetRunResponse(run=run_to_proto(self._trainer.get(caller(context).tenant, request.name)))

    def WatchRun(self, request: pb.WatchRunRequest, context: grpc.ServicerContext) -> Iterator[pb.WatchRunResponse]:
        stop = threading.Event()
        with self._lock:
            if self._closed or not context.add_callback(stop.set):
                stop.set()
            self._watches.add(stop)
        try:
            yield from (
                pb.WatchRunResponse(event=event_to_proto(event))
                for event in self._trainer.watch(
                    caller(context).tenant, request.name, after=request.after_sequence, stop=stop
                )
            )
        finally:
            with self._lock:
                self._watches.discard(stop)
        if self._closed:
            raise Unavailable("SERVER_STOPPING", "the service is stopping; watch again", retry_delay_s=1)

    def close(self) -> None:
        """Ends all watches with UNAVAILABLE, so that they do not keep the server from stopping."""
        with self._lock:
            self._closed = True
            for stop in self._watches:
                stop.set()

    def StopRun(self, request: pb.StopRunRequest, context: grpc.ServicerContext) -> pb.StopRunResponse:
        return pb.StopRunResponse(run=run_to_proto(self._trainer.stop(caller(context).tenant, request.name)))

    def ListRuns(self, request: pb.ListRunsRequest, context: grpc.ServicerContext) -> pb.ListRunsResponse:
        runs, token = self._trainer.list(caller(context).tenant, size=request.page_size, token=request.page_token)
        return pb.ListRunsResponse(runs=map(run_to_proto, runs), next_page_token=token)

    def ExportModel(self, request: pb.ExportModelRequest, context: grpc.ServicerContext) -> pb.ExportModelResponse:
        job = self._trainer.export(
            caller(context).tenant,
            request.run,
            request.model,
            int8=request.int8,
            int8_max_loss=request.int8_max_loss if request.HasField("int8_max_loss") else DEFAULT_ACCEPTED_LOSS,
            request_id=request.request_id,
            body=_body(request),
        )
        return pb.ExportModelResponse(job=job_to_proto(job))


def _body(request: Message) -> bytes:
    """What makes two requests with one id the same request."""
    return request.SerializeToString(deterministic=True)
