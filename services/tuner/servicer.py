"""Exposes studies and trials as the gRPC service TunerService, with conversions from and to protobuf."""

from collections.abc import Iterator
from itertools import accumulate

import grpc

from common.database import MAX_PAGE_SIZE, PageRequest
from common.errors import InvalidArgument
from common.proto import enum_word, repeatable
from common.server import caller
from common.watches import Watches
from protos.tuner.v1 import tuner_pb2 as pb
from protos.tuner.v1 import tuner_pb2_grpc
from services.tuner.codec import (
    read_measurement,
    read_outcome,
    read_run_spec,
    read_spec,
    run_to_proto,
    state_name,
    study_to_proto,
    trial_to_proto,
)
from services.tuner.run_slots import CLIENT_PREFIX
from services.tuner.studies import StudyService
from services.tuner.study import StudyRunView
from services.tuner.study_runs import StudyRunService

_MAX_PAGE_BYTES = 16 << 20
"""Size of a page above which the page ends early, so that it fits in a message."""


class TunerServicer(tuner_pb2_grpc.TunerServiceServicer):
    """Implements TunerService; the proto documents every RPC.

    Args:
        studies: Service that executes the requests about studies and trials.
        runs: Service that runs studies on the trainer.
    """

    def __init__(self, studies: StudyService, runs: StudyRunService) -> None:
        self._studies = studies
        self._runs = runs
        self._watches = Watches()

    def close(self) -> None:
        """Ends all watches with UNAVAILABLE. Otherwise, open watches would keep the server from stopping."""
        self._watches.close()

    def CreateStudy(self, request: pb.CreateStudyRequest, context: grpc.ServicerContext) -> pb.CreateStudyResponse:
        call = repeatable("CreateStudy", request, request.request_id)
        study = self._studies.create(caller(context).tenant, request.study_id, read_spec(request.spec), call)
        return pb.CreateStudyResponse(study=study_to_proto(study))

    def GetStudy(self, request: pb.GetStudyRequest, context: grpc.ServicerContext) -> pb.GetStudyResponse:
        return pb.GetStudyResponse(study=study_to_proto(self._studies.get(caller(context).tenant, request.name)))

    def ListStudies(self, request: pb.ListStudiesRequest, context: grpc.ServicerContext) -> pb.ListStudiesResponse:
        tenant = caller(context).tenant
        studies, token = self._studies.list(tenant, PageRequest(request.page_size, request.page_token))
        found = [study_to_proto(study) for study in studies]
        num_studies = max(1, sum(size <= _MAX_PAGE_BYTES for size in accumulate(study.ByteSize() for study in found)))
        if num_studies < len(found):
            studies, token = self._studies.list(tenant, PageRequest(num_studies, request.page_token))
            found = [study_to_proto(study) for study in studies]
        return pb.ListStudiesResponse(studies=found, next_page_token=token)

    def StopStudy(self, request: pb.StopStudyRequest, context: grpc.ServicerContext) -> pb.StopStudyResponse:
        return pb.StopStudyResponse(study=study_to_proto(self._studies.stop(caller(context).tenant, request.name)))

    def RunStudy(self, request: pb.RunStudyRequest, context: grpc.ServicerContext) -> pb.RunStudyResponse:
        study = self._runs.run(caller(context).tenant, request.name, read_run_spec(request.spec))
        return pb.RunStudyResponse(study=study_to_proto(study))

    def DeleteStudy(self, request: pb.DeleteStudyRequest, context: grpc.ServicerContext) -> pb.DeleteStudyResponse:
        self._studies.delete(caller(context).tenant, request.name)
        return pb.DeleteStudyResponse()

    def WatchStudy(
        self, request: pb.WatchStudyRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchStudyResponse]:
        tenant = caller(context).tenant
        with self._watches.open(context) as stop:
            for change in self._studies.watch(
                tenant, request.name, after=request.after_sequence, stop=stop, stored_only=request.stored_only
            ):
                if isinstance(change, StudyRunView):
                    yield pb.WatchStudyResponse(run=run_to_proto(change))
                else:
                    yield pb.WatchStudyResponse(trial=trial_to_proto(change))
            self._watches.check(stop)

    def SuggestTrials(
        self, request: pb.SuggestTrialsRequest, context: grpc.ServicerContext
    ) -> pb.SuggestTrialsResponse:
        if request.client_id.startswith(CLIENT_PREFIX):
            message = f"client ids that begin with {CLIENT_PREFIX!r} belong to RunStudy; choose another one"
            raise InvalidArgument("BAD_VALUE", message, field="client_id")
        trials = self._studies.suggest(caller(context).tenant, request.parent, request.client_id, request.num_trials)
        return pb.SuggestTrialsResponse(trials=map(trial_to_proto, trials))

    def GetTrial(self, request: pb.GetTrialRequest, context: grpc.ServicerContext) -> pb.GetTrialResponse:
        tenant, size = caller(context).tenant, request.page_size or MAX_PAGE_SIZE
        while True:
            trial, token = self._studies.trial(tenant, request.name, PageRequest(size, request.page_token))
            message = trial_to_proto(trial)
            if size == 1 or message.ByteSize() <= _MAX_PAGE_BYTES:
                return pb.GetTrialResponse(trial=message, next_page_token=token)
            size = max(1, min(size, len(message.measurements)) // 2)

    def ListTrials(self, request: pb.ListTrialsRequest, context: grpc.ServicerContext) -> pb.ListTrialsResponse:
        page = PageRequest(request.page_size, request.page_token)
        state = enum_word(pb.TrialState, request.state)
        trials, token = self._studies.trials(caller(context).tenant, request.parent, page, state=state)
        return pb.ListTrialsResponse(trials=map(trial_to_proto, trials), next_page_token=token)

    def ListOptimalTrials(
        self, request: pb.ListOptimalTrialsRequest, context: grpc.ServicerContext
    ) -> pb.ListOptimalTrialsResponse:
        page = PageRequest(request.page_size, request.page_token)
        trials, token = self._studies.optimal(caller(context).tenant, request.parent, page)
        return pb.ListOptimalTrialsResponse(trials=map(trial_to_proto, trials), next_page_token=token)

    def AddMeasurement(
        self, request: pb.AddMeasurementRequest, context: grpc.ServicerContext
    ) -> pb.AddMeasurementResponse:
        measurement = read_measurement(request.measurement)
        state, was_measured = self._studies.measure(
            caller(context).tenant, request.name, measurement, decide=request.check_early_stopping
        )
        return pb.AddMeasurementResponse(state=state_name(state), already_measured=was_measured)

    def CheckEarlyStopping(
        self, request: pb.CheckEarlyStoppingRequest, context: grpc.ServicerContext
    ) -> pb.CheckEarlyStoppingResponse:
        should_stop = self._studies.check_early_stopping(caller(context).tenant, request.name)
        return pb.CheckEarlyStoppingResponse(should_stop=should_stop)

    def StopTrial(self, request: pb.StopTrialRequest, context: grpc.ServicerContext) -> pb.StopTrialResponse:
        trial = self._studies.stop_trial(caller(context).tenant, request.name)
        return pb.StopTrialResponse(trial=trial_to_proto(trial))

    def CompleteTrial(
        self, request: pb.CompleteTrialRequest, context: grpc.ServicerContext
    ) -> pb.CompleteTrialResponse:
        trial, following = self._studies.complete_and_suggest(
            caller(context).tenant, request.name, read_outcome(request), request.num_next
        )
        return pb.CompleteTrialResponse(trial=trial_to_proto(trial), next=map(trial_to_proto, following))
