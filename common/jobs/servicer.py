"""Implements deepseek.job.v1.JobService on a JobStore. Hosted by every service that runs jobs."""

from collections.abc import Iterator

import grpc

from common.call_context import caller
from common.database import PageRequest
from common.jobs.proto import job_to_proto, state_from_proto
from common.jobs.store import JobStore
from common.watches import Watches
from protos.job.v1 import job_pb2 as pb
from protos.job.v1 import job_pb2_grpc


class JobServicer(job_pb2_grpc.JobServiceServicer):
    """Reads and cancels the jobs of one service.

    Args:
        store: The service's jobs.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._watches = Watches()

    def close(self) -> None:
        """Ends all watches with UNAVAILABLE, so that the server can stop. Clients then watch again."""
        self._watches.close()

    @property
    def num_watches(self) -> int:
        """Number of open watches."""
        return len(self._watches)

    def GetJob(self, request: pb.GetJobRequest, context: grpc.ServicerContext) -> pb.GetJobResponse:
        """Returns one job."""
        job = self._store.get(caller(context).tenant, request.name)
        return pb.GetJobResponse(job=job_to_proto(job))

    def ListJobs(self, request: pb.ListJobsRequest, context: grpc.ServicerContext) -> pb.ListJobsResponse:
        """Lists jobs, newest first."""
        jobs, next_page_token = self._store.list(
            caller(context).tenant,
            PageRequest(request.page_size, request.page_token),
            kind=request.kind,
            state=state_from_proto(request.state),
        )
        return pb.ListJobsResponse(jobs=map(job_to_proto, jobs), next_page_token=next_page_token)

    def CancelJob(self, request: pb.CancelJobRequest, context: grpc.ServicerContext) -> pb.CancelJobResponse:
        """Requests the cancellation of a job."""
        job = self._store.cancel(caller(context).tenant, request.name)
        return pb.CancelJobResponse(job=job_to_proto(job))

    def WatchJob(self, request: pb.WatchJobRequest, context: grpc.ServicerContext) -> Iterator[pb.WatchJobResponse]:
        """Sends the job immediately, and again after every change, until the job has finished."""
        with self._watches.open(context) as stop:
            for job in self._store.watch(caller(context).tenant, request.name, stop=stop):
                yield pb.WatchJobResponse(job=job_to_proto(job))
                if job.state.final:
                    return
            self._watches.check(stop)
