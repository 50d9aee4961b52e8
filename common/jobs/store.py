"""The store of jobs: operations for callers, and claims for workers.

All state is in the database, from which a restarted service or a second replica continues. All processes that use the
database share one clock, which determines when a lease expires.
"""

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from common.config import MAX_JOBS_PER_TENANT
from common.database import Database, PageRequest, fetch_page, now_us
from common.errors import NotFound, ResourceExhausted
from common.jobs.job import HELD, UNFINISHED, Job, JobRow, JobState
from common.jobs.lease import Lease
from common.names import new_id, parse
from common.telemetry.traces import traceparent

_QUOTA_DELAY_S = 30.0
"""Retry delay in seconds when a tenant has too many jobs. Jobs take minutes or longer."""

_FIRST_POLL_S = 0.005
_POLL_INTERVAL_S = 0.2
"""First and longest interval, in seconds, at which a watch reads its job. The interval doubles, so that the end of a
short job is reported at once, and a long job causes few reads."""


class JobStore:
    """The jobs of one service. Thread-safe.

    Args:
        database: Migrated database of the service.
        max_per_tenant: Maximum number of unfinished jobs per tenant; further jobs are rejected.
        num_at_once: Number of concurrent jobs per kind. The message of a pending job of these kinds says what the job
            is waiting for; pending jobs of other kinds have no such message.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_per_tenant: int = MAX_JOBS_PER_TENANT,
        num_at_once: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._database = database
        self._max_per_tenant = max_per_tenant
        self._num_at_once = num_at_once

    def submit(
        self, session: Session, *, tenant: str, kind: str, spec: str, result: str = "", external: bool = False
    ) -> Job:
        """Adds a job in the caller's transaction; call `JobRunner.wake` after the commit.

        The job stores the current span, so that the work belongs to the same trace as the call.

        An external job does not count towards the quota, because a program that is killed never ends its job.

        Args:
            session: Transaction of the call that creates the job.
            tenant: Tenant that owns the job.
            kind: Kind of work; a runner claims the kinds for which it has handlers.
            spec: Specification of the work, as JSON text.
            result: Resource name of the result, if it is already known.
            external: Whether a program outside the mesh does the work. The job is then RUNNING at once.

        Raises:
            ResourceExhausted: QUOTA_EXCEEDED.
        """
        claimable = or_(JobRow.state == JobState.PENDING.value, JobRow.attempt > 0)
        unfinished = select(func.count()).where(JobRow.tenant == tenant, JobRow.state.in_(UNFINISHED), claimable)
        if not external and (num_jobs := session.scalar(unfinished) or 0) >= self._max_per_tenant:
            message = (
                f"{tenant} has {num_jobs} unfinished jobs; the limit `max_jobs_per_tenant` is {self._max_per_tenant}. "
                "Try again when some jobs have finished, or cancel some (CancelJob)"
            )
            raise ResourceExhausted("QUOTA_EXCEEDED", message, retry_delay_s=_QUOTA_DELAY_S)
        create_us = now_us()
        row = JobRow(
            job_id=new_id(),
            tenant=tenant,
            kind=kind,
            state=(JobState.RUNNING if external else JobState.PENDING).value,
            progress=0.0,
            message="",
            error_code="",
            error_reason="",
            error_message="",
            error_field="",
            result=result,
            attempt=0,
            spec=spec,
            owner="",
            lease_until_us=0,
            create_us=create_us,
            start_us=create_us if external else None,
            traceparent=traceparent(),
        )
        session.add(row)
        session.flush()
        return row.job()

    def get(self, tenant: str, name: str) -> Job:
        """Returns a job.

        Raises:
            NotFound: JOB_NOT_FOUND.
            InvalidArgument: BAD_NAME.
        """
        with self._database.snapshot() as session:
            return self.read(session, _row(session, tenant, name))

    def read(self, session: Session, row: JobRow) -> Job:
        """Returns the job of a row, as shown to its owner. A pending job's message is computed at each read."""
        return self._read(session, [row])[0]

    def list(
        self, tenant: str, page: PageRequest, *, kind: str = "", state: JobState | None = None
    ) -> tuple[Sequence[Job], str]:
        """Lists jobs, newest first.

        Args:
            tenant: Tenant that owns the jobs.
            page: Page to return.
            kind: Kind of the jobs to list; empty for all kinds.
            state: State of the jobs to list; None for all states.

        Returns:
            The jobs, and the token of the next page, which is empty on the last page.

        Raises:
            InvalidArgument: BAD_PAGE_TOKEN, BAD_VALUE.
        """
        query = select(JobRow).where(JobRow.tenant == tenant)
        if kind:
            query = query.where(JobRow.kind == kind)
        if state is not None:
            query = query.where(JobRow.state == state.value)
        with self._database.snapshot() as session:
            rows, token = fetch_page(session, query, (JobRow.create_us, JobRow.job_id), page, descending=True)
            return self._read(session, rows), token

    def count(self) -> Mapping[tuple[str, str], int]:
        """Returns the number of jobs by kind and state, across all tenants."""
        query = select(JobRow.kind, JobRow.state, func.count()).group_by(JobRow.kind, JobRow.state)
        with self._database.snapshot() as session:
            return {(kind, state): number for kind, state, number in session.execute(query)}

    def cancel(self, tenant: str, name: str) -> Job:
        """Requests the cancellation of a job. Idempotent; a finished job is not changed.

        Returns:
            The job. It is CANCELLED if it was pending or is external; another running job is CANCELLING until its
            worker has stopped.

        Raises:
            NotFound: JOB_NOT_FOUND.
            InvalidArgument: BAD_NAME.
        """
        with self._database.transaction() as session:
            row = _row(session, tenant, name)
            if row.state == JobState.PENDING.value or row.is_external:
                row.finish(JobState.CANCELLED, self._database.clock_us(session))
            elif row.state == JobState.RUNNING.value:
                row.state = JobState.CANCELLING.value
            return row.job()

    def watch(self, tenant: str, name: str, *, stop: threading.Event | None = None) -> Iterator[Job]:
        """Yields the job immediately, and again after every change, until its state is final or `stop` is set.

        Changes within 0.2 s may be combined into one; the final state is always yielded, unless `stop` is set first.

        Raises:
            NotFound: JOB_NOT_FOUND.
            InvalidArgument: BAD_NAME.
        """
        stop = stop or threading.Event()
        last, interval_s = None, _FIRST_POLL_S
        while not stop.is_set():
            job = self.get(tenant, name)
            if job != last:
                yield job
                last, interval_s = job, _FIRST_POLL_S
            if job.state.final:
                return
            stop.wait(interval_s)
            interval_s = min(2 * interval_s, _POLL_INTERVAL_S)

    def claim(self, owner: str, kinds: Collection[str], lease_s: float) -> Lease | None:
        """Claims a pending job, or one whose lease has expired.

        If several jobs can be claimed, a job whose tenant has the fewest running jobs of these kinds is preferred. Ties
        are broken by preferring, in this order, a job that a worker left unfinished, a job whose tenant's last job
        started longest ago, and the oldest job. As a result, a tenant with many queued jobs does not hold up other
        tenants once a worker is free, even if there is only one worker. If only one tenant has jobs, it can use every
        worker.

        Args:
            owner: Id of the worker process, unique to each start of the process.
            kinds: Kinds of job for which the worker has handlers.
            lease_s: Duration of the lease in seconds, during which no other worker can claim the job.

        Returns:
            The lease; None if there is no job to claim.
        """
        # Reading first avoids the write lock when there is no job to claim, which is the usual case.
        with self._database.snapshot() as session:
            claimable = _claimable(self._database.clock_us(session), kinds)
            if session.scalar(select(JobRow.job_id).where(claimable).limit(1)) is None:
                return None
        deadline = time.monotonic() + lease_s
        with self._database.transaction() as session:
            now = self._database.clock_us(session)
            claimable = _claimable(now, kinds)
            shares = (
                select(
                    JobRow.tenant,
                    func.count().filter(JobRow.state.in_(HELD), JobRow.lease_until_us > now).label("num_running"),
                    func.max(JobRow.start_us).label("last"),
                )
                .where(JobRow.kind.in_(kinds), JobRow.tenant.in_(select(JobRow.tenant).where(claimable)))
                .group_by(JobRow.tenant)
                .subquery()
            )
            is_new = JobRow.state == JobState.PENDING.value
            query = (
                select(JobRow)
                .join(shares, shares.c.tenant == JobRow.tenant)
                .where(claimable)
                .order_by(
                    shares.c.num_running, is_new, func.coalesce(shares.c.last, 0), JobRow.create_us, JobRow.job_id
                )
            )
            row = session.scalars(query.limit(1)).first()
            if row is None:
                return None
            if row.state == JobState.PENDING.value:
                row.state = JobState.RUNNING.value
                row.start_us = now
            row.attempt += 1
            row.owner = owner
            row.lease_until_us = now + round(lease_s * 1_000_000)
            job = row.job()
        return Lease(self._database, job, owner, deadline=deadline)

    def renew(self, leases: Collection[Lease], lease_s: float) -> None:
        """Extends leases. Sets `lost` on leases that were lost, and `cancelled` if cancellation was requested.

        Args:
            leases: Leases of this process.
            lease_s: Duration of the leases from now, in seconds.
        """
        if not leases:
            return
        deadline = time.monotonic() + lease_s
        held = []
        with self._database.transaction() as session:
            until_us = self._database.clock_us(session) + round(lease_s * 1_000_000)
            for lease in leases:
                row = session.get(JobRow, lease.job_id)
                if row is None or not lease.holds(row):
                    lease.lost.set()
                    continue
                row.lease_until_us = until_us
                held.append(lease)
                if row.state == JobState.CANCELLING.value:
                    lease.cancelled.set()
        for lease in held:
            lease.deadline = deadline

    def _read(self, session: Session, rows: Sequence[JobRow]) -> Sequence[Job]:
        waiting = {row.kind for row in rows if row.state == JobState.PENDING.value} & self._num_at_once.keys()
        held = select(JobRow).where(JobRow.kind.in_(waiting), JobRow.state.in_(HELD)).order_by(JobRow.start_us)
        before: dict[str, list[JobRow]] = {kind: [] for kind in waiting}
        for row in session.scalars(held) if waiting else ():
            before[row.kind].append(row)
        tenants = {row.tenant for row in rows}
        queued = select(JobRow.tenant, JobRow.kind, JobRow.create_us, JobRow.job_id).where(
            JobRow.kind.in_(waiting), JobRow.state == JobState.PENDING.value, JobRow.tenant.in_(tenants)
        )
        lines: dict[tuple[str, str], list[tuple[int, str]]] = {}
        for one in session.execute(queued) if any(before.values()) else ():
            lines.setdefault((one.tenant, one.kind), []).append((one.create_us, one.job_id))

        def read(row: JobRow) -> Job:
            ahead = before.get(row.kind, [])
            if row.state != JobState.PENDING.value or not ahead or len(ahead) < self._num_at_once[row.kind]:
                return row.job()
            # Nothing is revealed about other tenants' jobs, not even their number.
            names = [one.result or f"jobs/{one.job_id}" for one in ahead if one.tenant == row.tenant]
            line = lines.get((row.tenant, row.kind), [])
            place = sum(other <= (row.create_us, row.job_id) for other in line)
            number = f"; number {place} in line" if place > 1 else ""
            return replace(row.job(), message=f"waits for {', '.join(names) or 'its turn'}{number}")

        return [read(row) for row in rows]


def _claimable(now: int, kinds: Collection[str]) -> ColumnElement[bool]:
    orphaned = and_(JobRow.state.in_(HELD), JobRow.lease_until_us <= now)
    return and_(JobRow.kind.in_(kinds), or_(JobRow.state == JobState.PENDING.value, orphaned))


def _row(session: Session, tenant: str, name: str) -> JobRow:
    (job_id,) = parse(name, "jobs/{}")
    row = session.get(JobRow, job_id)
    if row is None or row.tenant != tenant:
        raise NotFound("JOB_NOT_FOUND", f"unknown job {name}; list the jobs with ListJobs", field="name")
    return row
