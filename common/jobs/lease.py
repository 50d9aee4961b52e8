"""A worker's lease on a job, through which a handler changes the job.

A lease expires unless it is renewed, so another worker can continue the job if the first one dies. Each lease has a
fencing token, the attempt number. Every write by a handler checks, in the same transaction, that no other worker has
claimed the job since the lease was granted. A worker that was paused for too long therefore cannot publish anything
(Kleppmann, Designing Data-Intensive Applications, chapter 8).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from sqlalchemy.orm import Session

from common.database import Database
from common.errors import MeshError
from common.jobs.job import HELD, Job, JobError, JobRow, JobState


class LeaseLost(Exception):
    """Another worker has claimed the job, or the job has ended. The handler must stop without further changes."""


class Lease:
    """A worker's lease on a job, created by `JobStore.claim`. Thread-safe.

    Attributes:
        job: The job at the time of the claim.
        attempt: Fencing token: 1 for the first worker, and higher after a crash or a restart.
        lost: Event set when the lease has, or may have, expired. The handler must stop all work and publish nothing.
        cancelled: Event set when cancellation of the job was requested.
        stopping: Event set when this process shuts down. The handler should return soon; another worker continues the
            job.
        error: Error with which this worker ended the job; None if the job did not fail.
    """

    def __init__(self, database: Database, job: Job, owner: str, *, deadline: float) -> None:
        self.job = job
        self.attempt = job.attempt
        self.lost = threading.Event()
        self.cancelled = threading.Event()
        self.stopping = threading.Event()
        self.error: MeshError | None = None
        self.owner = owner
        self.deadline = deadline
        self._database = database
        self._finished = False
        if job.state is JobState.CANCELLING:
            self.cancelled.set()

    @property
    def job_id(self) -> str:
        """The last segment of the job's name."""
        return self.job.name.rpartition("/")[2]

    @property
    def finished(self) -> bool:
        """Whether the job was ended or released through this lease."""
        return self._finished

    def expire(self) -> None:
        """Sets `lost` if, by the clock of this process, the lease was not renewed in time."""
        if time.monotonic() >= self.deadline:
            self.lost.set()

    def update(self, *, progress: float | None = None, message: str | None = None) -> None:
        """Updates the progress that watchers see.

        Args:
            progress: Completed fraction, 0 to 1.
            message: Description of the current step, for people.

        Raises:
            LeaseLost: Another worker has the job.
        """
        with self._fenced() as (_, row):
            if progress is not None:
                row.progress = min(max(progress, 0.0), 1.0)
            if message is not None:
                row.message = message

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Session]:
        """Opens a transaction for intermediate results, which commits only if this worker holds the job.

        Raises:
            LeaseLost: Another worker has the job; the transaction did not start.
        """
        with self._fenced() as (session, _):
            yield session

    def cancel(self, session: Session) -> None:
        """Requests the cancellation of the job, in a transaction from `transaction`, and sets `cancelled`.

        Call it last, because `cancelled` stays set even if the transaction fails.
        """
        row = session.get_one(JobRow, self.job_id)
        if row.state == JobState.RUNNING.value:
            row.state = JobState.CANCELLING.value
        self.cancelled.set()

    def complete(self, effect: Callable[[Session], str]) -> None:
        """Publishes the result and ends the job, atomically.

        Allowed even after cancellation was requested; the handler decides whether to complete or to cancel.

        Args:
            effect: Function that writes the result and returns its resource name.

        Raises:
            LeaseLost: Another worker has the job; nothing was published.
        """
        with self._fenced() as (session, row):
            row.result = effect(session)
            row.progress = 1.0
            row.finish(JobState.SUCCEEDED, self._database.clock_us(session))
        self._finished = True

    def fail(self, error: MeshError, effect: Callable[[Session], None] | None = None) -> None:
        """Ends the job as FAILED.

        Args:
            error: Cause of the failure.
            effect: Function that makes further changes in the same transaction.

        Raises:
            LeaseLost: Another worker has the job.
        """
        with self._fenced() as (session, row):
            if effect is not None:
                effect(session)
            kept = JobError.of(error)
            row.error_code, row.error_reason = kept.code, kept.reason
            row.error_message, row.error_field = kept.message, kept.field
            row.finish(JobState.FAILED, self._database.clock_us(session))
        self.error = error
        self._finished = True

    def mark_cancelled(self, effect: Callable[[Session], None] | None = None) -> None:
        """Ends the job as CANCELLED.

        Args:
            effect: Function that makes further changes in the same transaction.

        Raises:
            LeaseLost: Another worker has the job.
        """
        with self._fenced() as (session, row):
            if effect is not None:
                effect(session)
            row.finish(JobState.CANCELLED, self._database.clock_us(session))
        self._finished = True

    def release(self) -> None:
        """Releases the unfinished job, so that another worker can claim it immediately.

        Raises:
            LeaseLost: Another worker already has the job.
        """
        with self._fenced() as (_, row):
            row.owner = ""
            row.lease_until_us = 0
        self._finished = True
        self.lost.set()

    @contextlib.contextmanager
    def _fenced(self) -> Iterator[tuple[Session, JobRow]]:
        with self._database.transaction() as session:
            row = session.get(JobRow, self.job_id)
            if row is None or not self.holds(row):
                self.lost.set()
                raise LeaseLost(f"{self.job.name} is no longer held by attempt {self.attempt}")
            if row.state == JobState.CANCELLING.value:
                self.cancelled.set()
            yield session, row

    def holds(self, row: JobRow) -> bool:
        """Returns whether this is the current lease on the row's job."""
        return row.state in HELD and row.owner == self.owner and row.attempt == self.attempt
