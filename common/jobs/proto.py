"""Job <-> deepseek.job.v1.Job."""

from google.protobuf.timestamp_pb2 import Timestamp

from common.errors import InvalidArgument
from common.jobs.job import Job, JobError, JobState
from common.paths import without_paths
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
    """Returns the message of a job, without paths of this machine. The service shows its spec in a separate message."""
    message = job_pb2.Job(
        name=job.name,
        kind=job.kind,
        state=_STATES[job.state],
        progress=job.progress,
        message=without_paths(job.message),
        result=job.result,
        attempt=job.attempt,
        create_time=_timestamp(job.create_us),
    )
    if job.error is not None:
        message.error.CopyFrom(error_to_proto(job.error))
    if job.start_us is not None:
        message.start_time.CopyFrom(_timestamp(job.start_us))
    if job.end_us is not None:
        message.end_time.CopyFrom(_timestamp(job.end_us))
    return message


def error_to_proto(error: JobError) -> job_pb2.JobError:
    """Returns the message of a job's error, without paths of this machine, which are in the log."""
    return job_pb2.JobError(
        code=error.code, reason=error.reason, message=without_paths(error.message), field=error.field
    )


def state_from_proto(state: job_pb2.JobState) -> JobState | None:
    """Returns the state that a filter names, None for UNSPECIFIED.

    Raises:
        InvalidArgument: BAD_VALUE (field `state`) for a number that is no state.
    """
    if state == job_pb2.JOB_STATE_UNSPECIFIED:
        return None
    for known, number in _STATES.items():
        if number == state:
            return known
    raise InvalidArgument("BAD_VALUE", f"{state} is not the state of a job", field="state")


def _timestamp(time_us: int) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromMicroseconds(time_us)
    return timestamp
