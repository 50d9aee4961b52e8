"""Converts jobs and their errors to protobuf messages, and the job state in a message to a `JobState`."""

from common.errors import InvalidArgument
from common.jobs.job import Job, JobError, JobState
from common.paths import without_paths
from common.proto import timestamp
from protos.job.v1 import job_pb2

_STATES = {
    JobState.PENDING: job_pb2.JOB_STATE_PENDING,
    JobState.RUNNING: job_pb2.JOB_STATE_RUNNING,
    JobState.CANCELLING: job_pb2.JOB_STATE_CANCELLING,
    JobState.SUCCEEDED: job_pb2.JOB_STATE_SUCCEEDED,
    JobState.FAILED: job_pb2.JOB_STATE_FAILED,
    JobState.CANCELLED: job_pb2.JOB_STATE_CANCELLED,
}


def job_to_proto(job: Job) -> job_pb2.Job:
    """Converts a job to a message, without paths of this machine. Omits the spec, which the service itself converts."""
    message = job_pb2.Job(
        name=job.name,
        kind=job.kind,
        state=_STATES[job.state],
        progress=job.progress,
        message=without_paths(job.message),
        result=job.result,
        attempt=job.attempt,
        create_time=timestamp(job.create_us),
    )
    if job.error is not None:
        message.error.CopyFrom(error_to_proto(job.error))
    if job.start_us is not None:
        message.start_time.CopyFrom(timestamp(job.start_us))
    if job.end_us is not None:
        message.end_time.CopyFrom(timestamp(job.end_us))
    return message


def error_to_proto(error: JobError) -> job_pb2.JobError:
    """Converts a job's error to a message, without paths of this machine; the service's log contains the paths."""
    return job_pb2.JobError(
        code=error.code, reason=error.reason, message=without_paths(error.message), field=error.field
    )


def state_from_proto(state: job_pb2.JobState) -> JobState | None:
    """Converts the state filter of a list request; returns None, i.e. all states, for JOB_STATE_UNSPECIFIED.

    Raises:
        InvalidArgument: BAD_VALUE (field `state`) for an unknown state.
    """
    if state == job_pb2.JOB_STATE_UNSPECIFIED:
        return None
    for known, number in _STATES.items():
        if number == state:
            return known
    raise InvalidArgument("BAD_VALUE", f"unknown job state {state}", field="state")
