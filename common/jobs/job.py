"""What a job is, and the row that keeps it."""

import enum
from dataclasses import dataclass

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from common.database import Base
from common.errors import MeshError


class JobState(enum.Enum):
    """Where a job stands.

    PENDING -> RUNNING -> SUCCEEDED or FAILED; on request PENDING -> CANCELLED, or RUNNING -> CANCELLING -> CANCELLED.
    """

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def final(self) -> bool:
        """Whether a job in this state never changes again."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


HELD = (JobState.RUNNING.value, JobState.CANCELLING.value)
"""The states in which a worker holds, or held, the lease."""

UNFINISHED = (JobState.PENDING.value, *HELD)
"""The states of jobs that are still to end."""


@dataclass(frozen=True)
class JobError:
    """Why a job failed.

    Attributes:
        code: Name of the canonical status code.
        reason: Machine-readable reason.
        message: What happened and what to do.
        field: Path of the offending field of the spec; empty where none applies.
    """

    code: str
    reason: str
    message: str
    field: str = ""

    @classmethod
    def of(cls, error: MeshError) -> "JobError":
        """Returns what a job keeps of an error."""
        return cls(error.code, error.reason, error.message, error.field)


@dataclass(frozen=True)
class Job:
    """A long task, as it stood when it was read.

    Attributes:
        name: `jobs/<id>`.
        tenant: Whose job it is.
        kind: What kind of work, e.g. `trainer.run`.
        state: Where it stands.
        progress: Completed fraction, 0 to 1.
        message: What it is doing, for people.
        error: Why it failed; None unless it is FAILED.
        result: Resource name of what it made or makes; empty while unknown.
        attempt: How often a worker has taken it up: the fencing token of the last lease.
        spec: What to do, JSON text of the service that runs it.
        create_us: When it was accepted, UTC microseconds.
        start_us: When a worker first took it up; None while PENDING.
        end_us: When it became final; None until then.
        traceparent: The span of the call that submitted it; empty if there was none.
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
    """The table behind `Job`. `owner` and `attempt` together are what a writer is checked against."""

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
    traceparent: Mapped[str | None]  # jobs from before there were traces have none

    def job(self) -> Job:
        """Returns the job that this row holds."""
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

    def finish(self, state: JobState, now_us: int) -> None:
        """Makes the job final and lets go of it."""
        self.state = state.value
        self.owner = ""
        self.lease_until_us = 0
        self.end_us = now_us
