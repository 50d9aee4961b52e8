"""deepseek.job.v1.JobService, hosted by every service that runs jobs: protobuf <-> JobStore, nothing else."""

import threading
from collections.abc import Iterator

import grpc

from common.errors import Unavailable
from common.jobs.proto import job_to_proto, state_from_proto
from common.jobs.store import JobStore
from common.server import caller
from protos.job.v1 import job_pb2, job_pb2_grpc


class JobServicer(job_pb2_grpc.JobServiceServicer):
    """Reads and cancels the jobs of one service.

    Args:
        store: The service's jobs.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._closed = False
        self._watches: set[threading.Event] = set()

    def close(self) -> None:
        """Ends all watches with UNAVAILABLE, so that they do not keep the server from stopping; clients watch again."""
        with self._lock:
            self._closed = True
            for stop in self._watches:
                stop.set()

    @property
    def num_watches(self) -> int:
        """How many clients watch a job now."""
        with self._lock:
            return len(self._watches)

    def GetJob(self, request: job_pb2.GetJobRequest, context: grpc.ServicerContext) -> job_pb2.GetJobResponse:
        """Returns one job."""
        job = self._store.get(caller(context).tenant, request.name)
        return job_pb2.GetJobResponse(job=job_to_proto(job))

    def ListJobs(self, request: job_pb2.ListJobsRequest, context: grpc.ServicerContext) -> job_pb2.ListJobsResponse:
        """Lists jobs, newest first."""
        jobs, next_page_token = self._store.list(
            caller(context).tenant,
            page_size=request.page_size,
            page_token=request.page_token,
            kind=request.kind,
            state=state_from_proto(request.state),
        )
        return job_pb2.ListJobsResponse(jobs=map(job_to_proto, jobs), next_page_token=next_page_token)

    def CancelJob(self, request: job_pb2.CancelJobRequest, context: grpc.ServicerContext) -> job_pb2.CancelJobResponse:
        """Asks a job to stop."""
        job = self._store.cancel(caller(context).tenant, request.name)
        return job_pb2.CancelJobResponse(job=job_to_proto(job))

    def WatchJob(
        self, request: job_pb2.WatchJobRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.WatchJobResponse]:
        """Sends the job at once and after every change, until it has finished."""
        stop = threading.Event()
        with self._lock:
            if self._closed or not context.add_callback(stop.set):
                stop.set()
            self._watches.add(stop)
        try:
            for job in self._store.watch(caller(context).tenant, request.name, stop=stop):
                yield job_pb2.WatchJobResponse(job=job_to_proto(job))
                if job.state.final:
                    return
        finally:
            with self._lock:
                self._watches.discard(stop)
        raise Unavailable("SERVER_STOPPING", "the service is stopping; watch again", retry_delay_s=1)
