"""A worker's hold on a job, which a handler gets.

A lease ends by itself unless it is renewed, so a job outlives its worker. It carries a fencing token, the attempt:
every write of a handler checks, in its own transaction, that no other worker has taken the job up since. A worker that
was paused and wakes up too late can publish nothing (Kleppmann, Designing Data-Intensive Applications, chapter 8).
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
    """Another worker has taken the job up, or it has ended: stop, and leave everything as it is."""


class Lease:
    """A worker's hold on a job; thread-safe. Made by `JobStore.claim`.

    Attributes:
        job: The job as it was when it was claimed.
        attempt: The fencing token; 1 for the first worker, more after a crash or a restart.
        lost: Set when the hold has ended or may have: stop what you started, publish nothing.
        cancelled: Set when somebody asked the job to stop.
        stopping: Set when this process shuts down: return soon, and another worker goes on.
        error: What this worker ended the job with; None if it did not fail.
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
        """Whether this lease brought the job to an end or gave it back."""
        return self._finished

    def expire(self) -> None:
        """Sets `lost` if nobody renewed the lease in time, by this process's own clock."""
        if time.monotonic() >= self.deadline:
            self.lost.set()

    def update(self, *, progress: float | None = None, message: str | None = None) -> None:
        """Tells watchers how far the job is.

        Args:
            progress: Completed fraction, 0 to 1.
            message: What it is doing, for people.

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
        """Opens a transaction that commits only while this worker holds the job: for what is published on the way.

        Raises:
            LeaseLost: Another worker has the job; the transaction did not begin.
        """
        with self._fenced() as (session, _):
            yield session

    def complete(self, effect: Callable[[Session], str]) -> None:
        """Publishes the result and ends the job, both or neither.

        A job that was asked to stop may still complete: cancelling is a request, and the handler answers it.

        Args:
            effect: Writes the result and returns the resource name of what the job made.

        Raises:
            LeaseLost: Another worker has the job; nothing was published.
        """
        with self._fenced() as (session, row):
            row.result = effect(session)
            row.progress = 1.0
            row.finish(JobState.SUCCEEDED, self._database.clock_us(session))
        self._finished = True

    def fail(self, error: MeshError, effect: Callable[[Session], None] | None = None) -> None:
        """Ends the job with an error.

        Args:
            error: Why.
            effect: Writes what belongs to the failure in the same transaction.

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

    def cancel_done(self, effect: Callable[[Session], None] | None = None) -> None:
        """Ends the job as CANCELLED.

        Args:
            effect: Writes what belongs to the end in the same transaction.

        Raises:
            LeaseLost: Another worker has the job.
        """
        with self._fenced() as (session, row):
            if effect is not None:
                effect(session)
            row.finish(JobState.CANCELLED, self._database.clock_us(session))
        self._finished = True

    def release(self) -> None:
        """Gives the job back unfinished, so that another worker takes it up at once.

        Raises:
            LeaseLost: Another worker has the job already.
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
        """Returns whether this lease is the one that the row speaks of."""
        return row.state in HELD and row.owner == self.owner and row.attempt == self.attempt
