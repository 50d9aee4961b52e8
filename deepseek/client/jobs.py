"""Waits for a job, whichever service runs it."""

from collections.abc import Callable

import grpc

from common.errors import ERROR_CLASSES, Cancelled, Internal
from deepseek.client.resume import PATIENCE_S, resumed
from protos.job.v1 import job_pb2, job_pb2_grpc


def wait(
    channel: grpc.Channel,
    job: job_pb2.Job,
    *,
    on_change: Callable[[job_pb2.Job], None] | None = None,
    patience_s: float = PATIENCE_S,
) -> job_pb2.Job:
    """Waits until a job has succeeded, even if the service that runs the job restarts in the meantime.

    Args:
        channel: Channel to the service that runs the job.
        job: The job, as returned by the call that started it.
        on_change: Called with `job` at once, and with each update of the job.
        patience_s: Time in seconds. If the service is unavailable, this call retries until it has waited this long for
            the next update.

    Returns:
        The job in the state SUCCEEDED.

    Raises:
        MeshError: The job FAILED. The exception has the class, reason, message and field of the job's error.
        Cancelled: JOB_CANCELLED if the job was cancelled.
    """
    stub = job_pb2_grpc.JobServiceStub(channel)
    final = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)
    request = job_pb2.WatchJobRequest(name=job.name)
    if on_change:
        on_change(job)
    while job.state not in final:
        for response in resumed(lambda: stub.WatchJob(request), patience_s=patience_s):
            job = response.job
            if on_change:
                on_change(job)
    if job.state == job_pb2.JOB_STATE_FAILED:
        error_class = ERROR_CLASSES.get(job.error.code, Internal)
        raise error_class(job.error.reason, job.error.message, field=job.error.field)
    if job.state == job_pb2.JOB_STATE_CANCELLED:
        raise Cancelled("JOB_CANCELLED", f"{job.name} was cancelled")
    return job
