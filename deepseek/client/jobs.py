"""Waiting for a job of any service."""

import time
from collections.abc import Callable

import grpc

from common.errors import ERROR_CLASSES, Cancelled, Internal, Unavailable
from protos.job.v1 import job_pb2, job_pb2_grpc


def wait(
    channel: grpc.Channel,
    job: job_pb2.Job,
    *,
    on_change: Callable[[job_pb2.Job], None] | None = None,
    patience_s: float = 30,
) -> job_pb2.Job:
    """Waits until a job has succeeded, across restarts of its service.

    Args:
        channel: Channel to the service that runs the job.
        job: The job as the starting call returned it.
        on_change: Called with every state of the job that is seen.
        patience_s: Seconds for which the service may be away before this gives up.

    Returns:
        The job, SUCCEEDED.

    Raises:
        MeshError: The class, reason and field of the job's own error if it FAILED; Cancelled if it was.
    """
    stub = job_pb2_grpc.JobServiceStub(channel)
    final = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)
    last_seen = time.monotonic()
    while job.state not in final:
        try:
            for response in stub.WatchJob(job_pb2.WatchJobRequest(name=job.name)):
                job = response.job
                last_seen = time.monotonic()
                if on_change:
                    on_change(job)
        except Unavailable:
            if time.monotonic() - last_seen > patience_s:
                raise
            time.sleep(0.2)
    if job.state == job_pb2.JOB_STATE_FAILED:
        error_class = ERROR_CLASSES.get(job.error.code, Internal)
        raise error_class(job.error.reason, job.error.message, field=job.error.field)
    if job.state == job_pb2.JOB_STATE_CANCELLED:
        raise Cancelled("JOB_CANCELLED", f"{job.name} was cancelled")
    return job
