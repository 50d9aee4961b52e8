"""Jobs as callers see them, and the claims that workers make.

The table is the only truth: a service that was restarted, or a second one beside it, goes on from there. Leases end by
a clock that all processes of one database share.
"""

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from sqlalchemy import ColumnElement, and_, func, or_, select, tuple_
from sqlalchemy.orm import Session

from common.database import Database, decode_page_token, encode_page_token, now_us
from common.database import page_size as checked_page_size
from common.errors import NotFound, ResourceExhausted
from common.jobs.job import HELD, UNFINISHED, Job, JobRow, JobState
from common.jobs.lease import Lease
from common.names import new_id, parse
from common.telemetry.traces import traceparent

MAX_JOBS_PER_TENANT = 100
"""How many jobs of a tenant may wait or be carried out, unless a service's settings say otherwise."""

_QUOTA_DELAY_S = 30.0
"""When to try again if a tenant has too many; jobs take minutes and more."""

_WATCH_S = 0.2
"""Seconds between two looks of a watcher."""


class JobStore:
    """The jobs of one service. Thread-safe.

    Args:
        database: The service's database, migrated.
        max_per_tenant: How many jobs of a tenant may wait or be carried out; more are refused.
        num_at_once: Number of jobs that run at once, per kind. The message of a waiting job of these kinds says what it
            waits for; waiting jobs of other kinds have no such message.
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

    def submit(self, session: Session, *, tenant: str, kind: str, spec: str, result: str = "") -> Job:
        """Adds a job in the caller's transaction; call `JobRunner.wake` once that is committed.

        The job remembers the span that this thread works for: its work becomes part of that trace.

        Args:
            session: The transaction of the call that creates the job.
            tenant: Whose job it is.
            kind: What kind of work; a runner takes the kinds that it has handlers for.
            spec: What to do, JSON text.
            result: Resource name of what the job makes, where it is known beforehand.

        Raises:
            ResourceExhausted: QUOTA_EXCEEDED.
        """
        unfinished = select(func.count()).where(JobRow.tenant == tenant, JobRow.state.in_(UNFINISHED))
        if (num_jobs := session.scalar(unfinished) or 0) >= self._max_per_tenant:
            message = (
                f"{num_jobs} jobs of {tenant} wait or run, and {self._max_per_tenant} may (`max_jobs_per_tenant`): "
                "try again when some have ended, or cancel what is not needed any more (CancelJob)"
            )
            raise ResourceExhausted("QUOTA_EXCEEDED", message, retry_delay_s=_QUOTA_DELAY_S)
        row = JobRow(
            job_id=new_id(),
            tenant=tenant,
            kind=kind,
            state=JobState.PENDING.value,
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
            create_us=now_us(),
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
        """Returns the job of a row as its owner sees it: what a job waits for is computed on each request."""
        return self._read(session, [row])[0]

    def list(
        self, tenant: str, *, page_size: int, page_token: str, kind: str = "", state: JobState | None = None
    ) -> tuple[Sequence[Job], str]:
        """Lists jobs, newest first.

        Args:
            tenant: Whose.
            page_size: At most this many; 0 means 50, more than 1000 means 1000.
            page_token: Token that came with the page before; empty for the first.
            kind: Only this kind; empty for all.
            state: Only in this state; None for all.

        Returns:
            The jobs and the token of the next page, empty on the last.

        Raises:
            InvalidArgument: BAD_PAGE_TOKEN, BAD_VALUE.
        """
        num_rows = checked_page_size(page_size)
        query = select(JobRow).where(JobRow.tenant == tenant)
        if kind:
            query = query.where(JobRow.kind == kind)
        if state is not None:
            query = query.where(JobRow.state == state.value)
        if after := decode_page_token(page_token, (int, str)):
            query = query.where(tuple_(JobRow.create_us, JobRow.job_id) < tuple_(*after))
        query = query.order_by(JobRow.create_us.desc(), JobRow.job_id.desc()).limit(num_rows + 1)
        with self._database.snapshot() as session:
            rows = session.scalars(query).all()
            jobs = self._read(session, rows[:num_rows])
        last = rows[num_rows - 1] if len(rows) > num_rows else None
        return jobs, encode_page_token((last.create_us, last.job_id)) if last else ""

    def count(self) -> Mapping[tuple[str, str], int]:
        """Returns how many jobs there are of each kind and state, of all tenants together."""
        query = select(JobRow.kind, JobRow.state, func.count()).group_by(JobRow.kind, JobRow.state)
        with self._database.snapshot() as session:
            return {(kind, state): number for kind, state, number in session.execute(query)}

    def cancel(self, tenant: str, name: str) -> Job:
        """Asks a job to stop. Idempotent; a finished job stays as it is.

        Returns:
            The job: CANCELLED if no worker had it, else CANCELLING until its worker has stopped.

        Raises:
            NotFound: JOB_NOT_FOUND.
            InvalidArgument: BAD_NAME.
        """
        with self._database.transaction() as session:
            row = _row(session, tenant, name)
            if row.state == JobState.PENDING.value:
                row.finish(JobState.CANCELLED, self._database.clock_us(session))
            elif row.state == JobState.RUNNING.value:
                row.state = JobState.CANCELLING.value
            return row.job()

    def watch(self, tenant: str, name: str, *, stop: threading.Event | None = None) -> Iterator[Job]:
        """Yields the job at once and after every change, until it is final or `stop` is set.

        Changes that follow each other faster than a watcher looks (0.2 s) arrive as one; the final one always does.

        Raises:
            NotFound: JOB_NOT_FOUND.
            InvalidArgument: BAD_NAME.
        """
        stop = stop or threading.Event()
        last = None
        while not stop.is_set():
            job = self.get(tenant, name)
            if job != last:
                yield job
                last = job
            if job.state.final:
                return
            stop.wait(_WATCH_S)

    def claim(self, owner: str, kinds: Collection[str], lease_s: float) -> Lease | None:
        """Takes up a job that waits, or whose worker let its lease end.

        The tenant with the fewest active jobs of these kinds comes first; among equals, the one served longest ago. So
        a tenant with many queued jobs does not keep the others waiting once a worker is free, even if there is only one
        worker, and a single tenant gets every worker. Of one tenant's jobs, those that a worker left unfinished come
        first, then the oldest.

        Args:
            owner: Who claims; unique to a worker process and its start.
            kinds: Kinds of job that the worker can do.
            lease_s: Seconds for which nobody else can take the job up, unless the lease is renewed.

        Returns:
            The lease, or None if there is nothing to do.
        """
        # Looking first spares the write lock while there is nothing to do, which is most of the time.
        with self._database.snapshot() as session:
            claimable = _claimable(self._database.clock_us(session), kinds)
            if session.scalar(select(JobRow.job_id).where(claimable).limit(1)) is None:
                return None
        deadline = time.monotonic() + lease_s
        with self._database.transaction() as session:
            now = self._database.clock_us(session)
            claimable = _claimable(now, kinds)
            turns = (
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
                .join(turns, turns.c.tenant == JobRow.tenant)
                .where(claimable)
                .order_by(turns.c.num_running, is_new, func.coalesce(turns.c.last, 0), JobRow.create_us, JobRow.job_id)
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
        """Extends leases, and sets `lost` and `cancelled` of those that are.

        Args:
            leases: Leases that this process holds.
            lease_s: Seconds from now for which they then hold.
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

        def read(row: JobRow) -> Job:
            ahead = before.get(row.kind, [])
            if row.state != JobState.PENDING.value or not ahead or len(ahead) < self._num_at_once[row.kind]:
                return row.job()
            # Nothing is revealed about other tenants' jobs, not even their number.
            names = [one.result or f"jobs/{one.job_id}" for one in ahead if one.tenant == row.tenant]
            return replace(row.job(), message=f"waits for {', '.join(names) or 'its turn'}")

        return [read(row) for row in rows]


def _claimable(now: int, kinds: Collection[str]) -> ColumnElement[bool]:
    orphaned = and_(JobRow.state.in_(HELD), JobRow.lease_until_us <= now)
    return and_(JobRow.kind.in_(kinds), or_(JobRow.state == JobState.PENDING.value, orphaned))


def _row(session: Session, tenant: str, name: str) -> JobRow:
    (job_id,) = parse(name, "jobs/{}")
    row = session.get(JobRow, job_id)
    if row is None or row.tenant != tenant:
        raise NotFound("JOB_NOT_FOUND", f"there is no job {name}; list them to see what there is", field="name")
    return row
