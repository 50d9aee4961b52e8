"""Exposes runs and imports as the gRPC service TrainerService, with conversions from and to protobuf."""

from collections.abc import Iterator
from functools import partial
from itertools import accumulate

import grpc

from common.database import PageRequest
from common.errors import InvalidArgument
from common.jobs.history import RunEvent
from common.jobs.proto import job_to_proto
from common.proto import repeatable
from common.server import caller, received
from common.watches import Watches
from deepseek.models.selection import DEFAULT_ACCEPTED_LOSS
from protos.trainer.v1 import trainer_pb2 as pb
from protos.trainer.v1 import trainer_pb2_grpc
from services.trainer.codec import (
    ack_to_proto,
    event_to_proto,
    read_directive,
    read_labels,
    read_parameters,
    read_spec,
    read_steps,
    run_to_proto,
    spec_to_proto,
)
from services.trainer.imports import ImportService, Piece
from services.trainer.run_service import RunService
from services.trainer.steering import SteeringService, SteerRequest

_MAX_PAGE_BYTES = 16 << 20
"""Size of a page of runs above which the page ends early, so that it fits in a message."""


class TrainerServicer(trainer_pb2_grpc.TrainerServiceServicer):
    """Implements TrainerService; the proto documents every RPC.

    Args:
        runs: Service that executes the requests about runs.
        imports: Service that receives models to import.
        steering: Service that steers runs.
    """

    def __init__(self, runs: RunService, imports: ImportService, steering: SteeringService) -> None:
        self._runs = runs
        self._steering = steering
        self._imports = imports
        self._watches = Watches()

    def SubmitRun(self, request: pb.SubmitRunRequest, context: grpc.ServicerContext) -> pb.SubmitRunResponse:
        if request.validate_only:
            spec = self._runs.check(caller(context).tenant, read_spec(request.spec))
            return pb.SubmitRunResponse(run=pb.Run(spec=spec_to_proto(spec)))
        run, reused = self._runs.submit(
            caller(context).tenant,
            read_spec(request.spec),
            repeatable("SubmitRun", request, request.request_id),
            reuse=request.reuse,
            exportable=request.exportable,
        )
        return pb.SubmitRunResponse(run=run_to_proto(run), reused=reused)

    def GetRun(self, request: pb.GetRunRequest, context: grpc.ServicerContext) -> pb.GetRunResponse:
        return pb.GetRunResponse(run=run_to_proto(self._runs.get(caller(context).tenant, request.name)))

    def WatchRun(self, request: pb.WatchRunRequest, context: grpc.ServicerContext) -> Iterator[pb.WatchRunResponse]:
        tenant = caller(context).tenant
        with self._watches.open(context) as stop:
            for event in self._runs.watch(
                tenant, request.name, after=request.after_sequence, stop=stop, stored_only=request.stored_only
            ):
                yield pb.WatchRunResponse(event=event_to_proto(event))
            self._watches.check(stop)

    def close(self) -> None:
        """Ends all watches with UNAVAILABLE. Otherwise, open watches would keep the server from stopping."""
        self._watches.close()

    def StopRun(self, request: pb.StopRunRequest, context: grpc.ServicerContext) -> pb.StopRunResponse:
        return pb.StopRunResponse(run=run_to_proto(self._runs.stop(caller(context).tenant, request.name)))

    def SteerRun(
        self, request_iterator: Iterator[pb.SteerRunRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.SteerRunResponse]:
        requests = map(_steer_request, received(request_iterator, field="directive"))
        with self._watches.open(context) as stop:
            for found in self._steering.steer(caller(context).tenant, requests, stop=stop):
                if isinstance(found, RunEvent):
                    yield pb.SteerRunResponse(event=event_to_proto(found))
                else:
                    yield pb.SteerRunResponse(ack=ack_to_proto(found))
            self._watches.check(stop)

    def UpdateRun(self, request: pb.UpdateRunRequest, context: grpc.ServicerContext) -> pb.UpdateRunResponse:
        run = self._runs.update(caller(context).tenant, request.name, read_labels(request))
        return pb.UpdateRunResponse(run=run_to_proto(run))

    def DeleteRun(self, request: pb.DeleteRunRequest, context: grpc.ServicerContext) -> pb.DeleteRunResponse:
        self._runs.delete(caller(context).tenant, request.name)
        return pb.DeleteRunResponse()

    def CreateExternalRun(
        self, request: pb.CreateExternalRunRequest, context: grpc.ServicerContext
    ) -> pb.CreateExternalRunResponse:
        run = self._runs.create_external(
            caller(context).tenant,
            read_labels(request),
            read_parameters(request.parameters),
            repeatable("CreateExternalRun", request, request.request_id),
        )
        return pb.CreateExternalRunResponse(run=run_to_proto(run))

    def LogRun(self, request: pb.LogRunRequest, context: grpc.ServicerContext) -> pb.LogRunResponse:
        run = self._runs.log(caller(context).tenant, request.name, *read_steps(request))
        return pb.LogRunResponse(run=run_to_proto(run))

    def ListRuns(self, request: pb.ListRunsRequest, context: grpc.ServicerContext) -> pb.ListRunsResponse:
        tenant = caller(context).tenant
        page = PageRequest(request.page_size, request.page_token)
        runs, token = self._runs.list(tenant, page, active_only=request.active_only)
        sizes = accumulate(run_to_proto(run).ByteSize() for run in runs)
        num_runs = max(1, sum(size <= _MAX_PAGE_BYTES for size in sizes))
        if num_runs < len(runs):
            page = PageRequest(num_runs, request.page_token)
            runs, token = self._runs.list(tenant, page, active_only=request.active_only)
        return pb.ListRunsResponse(runs=map(run_to_proto, runs), next_page_token=token)

    def ExportModel(self, request: pb.ExportModelRequest, context: grpc.ServicerContext) -> pb.ExportModelResponse:
        job = self._runs.export(
            caller(context).tenant,
            request.run,
            request.model,
            repeatable("ExportModel", request, request.request_id),
            int8=request.int8,
            int8_max_loss=request.int8_max_loss if request.HasField("int8_max_loss") else DEFAULT_ACCEPTED_LOSS,
        )
        return pb.ExportModelResponse(job=job_to_proto(job))

    def ImportModel(
        self, request_iterator: Iterator[pb.ImportModelRequest], context: grpc.ServicerContext
    ) -> pb.ImportModelResponse:
        tenant, requests = caller(context).tenant, received(request_iterator, field="file")
        first = next(requests, None)
        if first is None:
            message = "the stream is empty; its first message must name the model and a file"
            raise InvalidArgument("MISSING_FIELD", message, field="model")

        def pieces() -> Iterator[Piece]:
            yield Piece(first.file, first.offset, first.data)
            for request in requests:
                for field in ("model", "license", "note", "labels", "request_id"):
                    if getattr(request, field):
                        raise InvalidArgument("BAD_VALUE", f"only the first message may have {field}", field=field)
                yield Piece(request.file, request.offset, request.data)

        job = self._imports.submit(
            tenant,
            first.model,
            pieces(),
            license_text=first.license,
            note=first.note,
            labels=first.labels,
            request_id=first.request_id,
        )
        return pb.ImportModelResponse(job=job_to_proto(job))


def _steer_request(message: pb.SteerRunRequest) -> SteerRequest:
    directive = partial(read_directive, message.directive) if message.HasField("directive") else None
    return SteerRequest(message.name, message.after_sequence, message.answers_only, message.directive.id, directive)
