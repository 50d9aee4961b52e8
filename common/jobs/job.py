"""A job, and its row in the database."""

import enum
from dataclasses import dataclass

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from common.database import Base
from common.errors import MeshError


class JobState(enum.Enum):
    """The state of a job.

    PENDING -> RUNNING -> SUCCEEDED or FAILED. On a request to cancel: PENDING -> CANCELLED, or RUNNING -> CANCELLING ->
    CANCELLED.
    """

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def final(self) -> bool:
        """Whether this state is final, so that the job never changes again."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


HELD = (JobState.RUNNING.value, JobState.CANCELLING.value)
"""States of claimed jobs. A worker holds the job's lease, or held it until the lease expired."""

UNFINISHED = (JobState.PENDING.value, *HELD)
"""States of jobs that have not ended."""


@dataclass(frozen=True)
class JobError:
    """The error of a failed job.

    Attributes:
        code: Name of the canonical status code.
        reason: Machine-readable reason.
        message: Description of the problem for people, with a remedy.
        field: Path of the offending field of the spec; empty if no field is at fault.
    """

    code: str
    reason: str
    message: str
    field: str = ""

    @classmethod
    def of(cls, error: MeshError) -> "JobError":
        """Returns the parts of an error that a job stores."""
        return cls(error.code, error.reason, error.message, error.field)


@dataclass(frozen=True)
class Job:
    """A job, as of the time it was read.

    Attributes:
        name: Resource name, `jobs/<id>`.
        tenant: Tenant that owns the job.
        kind: Kind of work, e.g. `trainer.run`.
        state: State of the job.
        progress: Completed fraction, 0 to 1.
        message: Description of the current step, for people.
        error: Error of a FAILED job; None in other states.
        result: Resource name of the result; empty until the name is known.
        attempt: Number of times that workers have claimed the job, which is also the fencing token of the last lease.
        spec: Specification of the work: JSON text, in a format that the service running the job defines.
        create_us: Time of submission, in UTC microseconds.
        start_us: Time of the first claim, in UTC microseconds; None if the job was never claimed.
        end_us: Time at which the state became final, in UTC microseconds; None until then.
        traceparent: Span of the call that submitted the job; empty if that call had no span.
    """

    name: str
    tenant: str
    kind: str
    state: JobState
    progress: float
    message: str
    error: JobError | None
    result: str
    attempt: int
    spec: str
    create_us: int
    start_us: int | None
    end_us: int | None
    traceparent: str = ""


class JobRow(Base):
    """A row of the jobs table. Only the worker that matches `owner` and `attempt` may write to it."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_tenant_create_us_job_id", "tenant", "create_us", "job_id"),
        Index("ix_jobs_state_create_us", "state", "create_us"),
    )

    job_id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    kind: Mapped[str]
    state: Mapped[str]
    progress: Mapped[float]
    message: Mapped[str]
    error_code: Mapped[str]
    error_reason: Mapped[str]
    error_message: Mapped[str]
    error_field: Mapped[str]
    result: Mapped[str]
    attempt: Mapped[int]
    spec: Mapped[str]
    owner: Mapped[str]
    lease_until_us: Mapped[int]
    create_us: Mapped[int]
    start_us: Mapped[int | None]
    end_us: Mapped[int | None]
    traceparent: Mapped[str | None]  # None if a release without traces submitted the job

    def job(self) -> Job:
        """Returns the job of this row."""
        error = None
        if self.error_code:
            error = JobError(self.error_code, self.error_reason, self.error_message, self.error_field)
        return Job(
            name=f"jobs/{self.job_id}",
            tenant=self.tenant,
            kind=self.kind,
            state=JobState(self.state),
            progress=self.progress,
            message=self.message,
            error=error,
            result=self.result,
            attempt=self.attempt,
            spec=self.spec,
            create_us=self.create_us,
            start_us=self.start_us,
            end_us=self.end_us,
            traceparent=self.traceparent or "",
        )

    @property
    def is_external(self) -> bool:
        """Whether a program outside the mesh does the work of this unfinished job, so that no worker has claimed it."""
        return self.state in HELD and not self.attempt

    def finish(self, state: JobState, now_us: int) -> None:
        """Sets a final state and releases the job."""
        self.state = state.value
        self.owner = ""
        self.lease_until_us = 0
        self.end_us = now_us
