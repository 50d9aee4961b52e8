"""Training runs as the database holds them: their spec, their history of events and what came of them.

A run's job says where it stands (`common.jobs`); this adds what makes it a run. The history has one writer, the
handler that holds the job's lease, and its sequence has no gaps: a number is taken in the transaction that stores the
event. The one exception is a run that is cancelled while it is pending: nobody handles it, so whoever looks at it first
closes its history from the state of its job (`settle`).
"""

import json
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Select, or_, select, tuple_
from sqlalchemy.orm import Session

from common.artifacts import Artifact
from common.database import Database, decode_page_token, encode_page_token, now_us, page_size
from common.errors import NotFound
from common.jobs import Job, JobError, JobState, JobStore
from common.jobs.job import JobRow
from common.names import new_id, parse
from deepseek.training.runspec import RunSpec
from services.trainer.tables import ExportRow, RunEventRow, RunRow

JOB_KIND = "trainer.run"
_WATCH_POLL_S = 0.5
_EVENTS_A_READ = 256


@dataclass(frozen=True)
class Run:
    """One training run; the attributes are those of `deepseek.trainer.v1.Run`."""

    tenant: str
    run_id: str
    spec: RunSpec
    dataset_manifest_sha256: str
    job: Job
    fingerprint: str
    checkpoint: Artifact | None
    checkpoint_step: int
    metrics: Mapping[str, float]
    train_s: float
    num_threads: int | None

    @property
    def name(self) -> str:
        """Resource name, `runs/<id>`."""
        return f"runs/{self.run_id}"


@dataclass(frozen=True)
class RunEvent:
    """One entry of a run's history. `kind` names the field of the proto's oneof, `payload` holds its values."""

    sequence: int
    time_us: int
    kind: str
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Superseded:
    """A checkpoint that its run no longer needs.

    Attributes:
        artifact: The checkpoint.
        sequence: Sequence number of its event.
        next_us: When the next checkpoint was published, UTC microseconds.
        is_needed: Whether another run still refers to it.
    """

    artifact: Artifact
    sequence: int
    next_us: int
    is_needed: bool


@dataclass(frozen=True)
class Export:
    """What an export made: the model's manifest and its metrics."""

    manifest: Artifact
    metrics: Mapping[str, float]


class RunStore:
    """Thread-safe; several processes may share the database.

    Args:
        database: Migrated.
        jobs: The job store in the same database.
    """

    def __init__(self, database: Database, jobs: JobStore) -> None:
        self._database = database
        self._jobs = jobs
        self._changed = threading.Condition()

    def create(
        self,
        session: Session,
        tenant: str,
        spec: RunSpec,
        dataset_manifest_sha256: str,
        fingerprint: str,
        *,
        adopt: bool = False,
    ) -> str:
        """Stores a new run and its job in the caller's transaction; returns its name.

        Args:
            session: The transaction.
            tenant: Whose run it is.
            spec: Complete.
            dataset_manifest_sha256: Of the data set version.
            fingerprint: Equal for equal runs.
            adopt: Go on from the last checkpoint of an equal run that failed or was cancelled, if there is one.

        Raises:
            ResourceExhausted: QUOTA_EXCEEDED.
        """
        earlier = self._unfinished(session, tenant, fingerprint) if adopt else None
        run_id = new_id()
        name = f"runs/{run_id}"
        job = self._jobs.submit(session, tenant=tenant, kind=JOB_KIND, spec=json.dumps({"run_id": run_id}), result=name)
        row = RunRow(
            tenant=tenant,
            run_id=run_id,
            job_id=job.name.removeprefix("jobs/"),
            create_us=now_us(),
            spec=spec.canonical(),
            dataset_manifest_sha256=dataset_manifest_sha256,
            fingerprint=fingerprint,
            num_events=0,
            checkpoint=earlier.checkpoint if earlier else None,
            checkpoint_step=earlier.checkpoint_step if earlier else 0,
            metrics="{}",
            train_s=earlier.train_s if earlier else 0.0,
            num_threads=earlier.num_threads if earlier else None,
        )
        session.add(row)
        session.flush()
        self._append(session, row, [("state", {"state": JobState.PENDING.name})])
        return name

    def find_equal(self, session: Session, tenant: str, fingerprint: str, states: Collection[JobState]) -> str | None:
        """Name of the newest run with this fingerprint whose job is in one of these states."""
        query = (
            select(RunRow.run_id)
            .join(JobRow, JobRow.job_id == RunRow.job_id)
            .where(RunRow.tenant == tenant, RunRow.fingerprint == fingerprint)
            .where(JobRow.state.in_([state.value for state in states]))
            .order_by(RunRow.create_us.desc(), RunRow.run_id.desc())
        )
        run_id = session.scalars(query.limit(1)).first()
        return f"runs/{run_id}" if run_id else None

    def get(self, tenant: str, name: str, *, field: str = "name") -> Run:
        """Looks a run up.

        Raises:
            NotFound: RUN_NOT_FOUND.
            InvalidArgument: BAD_NAME.
        """
        (run_id,) = parse(name, "runs/{}", field=field)
        with self._database.snapshot() as session:
            return self._run(session, self._row(session, tenant, run_id, field=field))

    def list(self, tenant: str, *, size: int, token: str) -> tuple[Sequence[Run], str]:
        """One page of runs, newest first, and the token of the next page."""
        limit = page_size(size)
        query = select(RunRow).where(RunRow.tenant == tenant)
        if key := decode_page_token(token, (int, str)):
            query = query.where(tuple_(RunRow.create_us, RunRow.run_id) < tuple_(*key))
        query = query.order_by(RunRow.create_us.desc(), RunRow.run_id.desc()).limit(limit + 1)
        with self._database.snapshot() as session:
            rows = session.scalars(query).all()
            runs = [self._run(session, row) for row in rows[:limit]]
        last = rows[len(runs) - 1] if len(rows) > limit else None
        return runs, encode_page_token((last.create_us, last.run_id)) if last else ""

    def publish(
        self,
        session: Session,
        run: Run,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        train_s: float | None = None,
        metrics: Mapping[str, float] | None = None,
        num_threads: int | None = None,
    ) -> None:
        """Appends events in the lease holder's fenced transaction; a checkpoint event moves the run's checkpoint.

        Args:
            session: Of `Lease.transaction` or `Lease.complete`.
            run: The run.
            events: Kind and payload of each.
            train_s: Seconds trained so far, if known.
            metrics: Final figures, on success.
            num_threads: New number of threads per worker.
        """
        row = self._row(session, run.tenant, run.run_id, lock=True)
        for kind, payload in events:
            if kind == "checkpoint" and payload["artifact"] != row.checkpoint:
                row.previous_checkpoint, row.checkpoint = row.checkpoint, payload["artifact"]
                row.checkpoint_step = payload["step"]
        if train_s is not None:
            row.train_s = train_s
        if metrics is not None:
            row.metrics = json.dumps(dict(metrics))
        if num_threads is not None:
            row.num_threads = num_threads
        self._append(session, row, events)

    def superseded(self, run: Run) -> Sequence[Superseded]:
        """The run's checkpoints before its last two that have not been dropped yet, oldest first.

        No row refers to them from the moment a newer one was published, so no new run can begin with one: a checkpoint
        that is not needed now is never needed again.
        """
        with self._database.snapshot() as session:
            row = self._row(session, run.tenant, run.run_id)
            query = select(RunEventRow).where(
                RunEventRow.tenant == run.tenant,
                RunEventRow.run_id == run.run_id,
                RunEventRow.kind == "checkpoint",
                RunEventRow.sequence > (row.dropped_to or 0),
            )
            events = session.scalars(query.order_by(RunEventRow.sequence).limit(_EVENTS_A_READ)).all()
            texts = [json.loads(event.payload)["artifact"] for event in events]
            columns = or_(RunRow.checkpoint.in_(texts), RunRow.previous_checkpoint.in_(texts))
            users = session.scalars(select(RunRow).where(RunRow.tenant == run.tenant, columns)).all()
            needed = {text for user in users for text in (user.checkpoint, user.previous_checkpoint)}
            kept = (row.checkpoint, row.previous_checkpoint)
            return [
                Superseded(Artifact.from_json(text), event.sequence, following.time_us, text in needed)
                for text, event, following in zip(texts, events, events[1:], strict=False)
                if text not in kept
            ]

    def drop(self, session: Session, run: Run, sequence: int) -> None:
        """Records in the lease holder's transaction that the checkpoints up to one event have been dropped."""
        self._row(session, run.tenant, run.run_id, lock=True).dropped_to = sequence

    def settle(self, tenant: str, name: str) -> Run:
        """Closes the history of a run whose job has ended; returns the run as it stands."""
        run = self.get(tenant, name)
        if run.job.state.final:
            with self._database.transaction() as session:
                row = self._row(session, tenant, run.run_id, lock=True)
                query = select(RunEventRow).where(RunEventRow.tenant == tenant, RunEventRow.run_id == run.run_id)
                last = session.scalars(query.order_by(RunEventRow.sequence.desc()).limit(1)).one()
                if not _closes(last.kind, json.loads(last.payload)):
                    self._append(session, row, [final_state(run.job.state, run.job.error)])
            self.wake()
        return run

    def last_state(self, session: Session, run: Run) -> str:
        """Name of the state that the history shows last."""
        last = session.scalars(_newest(run, "state")).one()
        return str(json.loads(last.payload)["state"])

    def precision(self, run: Run) -> Mapping[str, Any] | None:
        """The format of the run's newest attempt; None for a run from before the format was recorded."""
        with self._database.snapshot() as session:
            last = session.scalars(_newest(run, "precision")).first()
        return json.loads(last.payload) if last else None

    def watch(self, tenant: str, name: str, *, after: int, stop: threading.Event) -> Iterator[RunEvent]:
        """The history after a sequence number, then live, until the run has ended or `stop` is set."""
        run = self.settle(tenant, name)
        while not stop.is_set():
            events = self._events(tenant, run.run_id, after)
            for event in events:
                yield event
                after = event.sequence
                if _closes(event.kind, event.payload):
                    return
            if not events:
                with self._changed:
                    self._changed.wait(_WATCH_POLL_S)
                if self.settle(tenant, name).job.state.final and not self._events(tenant, run.run_id, after):
                    return  # the caller asked for what follows the last event

    def wake(self) -> None:
        """Tells watchers in this process that there is news; those elsewhere poll."""
        with self._changed:
            self._changed.notify_all()

    def find_export(self, tenant: str, run_id: str, fingerprint: str) -> Export | None:
        """What an equal export made earlier, if there was one."""
        with self._database.snapshot() as session:
            row = session.get(ExportRow, (tenant, run_id, fingerprint))
        return Export(Artifact.from_json(row.manifest), json.loads(row.metrics)) if row else None

    def add_export(self, session: Session, tenant: str, run_id: str, fingerprint: str, export: Export) -> Export:
        """Remembers an export in the lease holder's fenced transaction; returns the one to register.

        That is an equal one if it has finished first: measured anew, this one would be another version.
        """
        row = session.get(ExportRow, (tenant, run_id, fingerprint))
        if row is not None:
            return Export(Artifact.from_json(row.manifest), json.loads(row.metrics))
        row = ExportRow(tenant=tenant, run_id=run_id, fingerprint=fingerprint)
        row.manifest, row.metrics = export.manifest.to_json(), json.dumps(dict(export.metrics))
        session.add(row)
        return export

    def _unfinished(self, session: Session, tenant: str, fingerprint: str) -> RunRow | None:
        """Of the equal runs that failed or were cancelled, the one that came furthest."""
        states = (JobState.FAILED, JobState.CANCELLING, JobState.CANCELLED)
        query = (
            select(RunRow)
            .join(JobRow, JobRow.job_id == RunRow.job_id)
            .where(RunRow.tenant == tenant, RunRow.fingerprint == fingerprint, RunRow.checkpoint.is_not(None))
            .where(JobRow.state.in_([state.value for state in states]))
            .order_by(RunRow.checkpoint_step.desc(), RunRow.create_us.desc())
        )
        return session.scalars(query.limit(1)).first()

    def _events(self, tenant: str, run_id: str, after: int) -> Sequence[RunEvent]:
        query = select(RunEventRow).where(
            RunEventRow.tenant == tenant, RunEventRow.run_id == run_id, RunEventRow.sequence > after
        )
        with self._database.snapshot() as session:
            rows = session.scalars(query.order_by(RunEventRow.sequence).limit(_EVENTS_A_READ)).all()
        return [RunEvent(row.sequence, row.time_us, row.kind, json.loads(row.payload)) for row in rows]

    def _append(self, session: Session, row: RunRow, events: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        for kind, payload in events:
            row.num_events += 1
            session.add(
                RunEventRow(
                    tenant=row.tenant,
                    run_id=row.run_id,
                    sequence=row.num_events,
                    time_us=now_us(),
                    kind=kind,
                    payload=json.dumps(dict(payload)),
                )
            )

    def _run(self, session: Session, row: RunRow) -> Run:
        # Run and job are read in one snapshot: a caller that sees SUCCEEDED also sees the metrics.
        job = session.get(JobRow, row.job_id)
        assert job is not None, "a run and its job are created together"
        return Run(
            tenant=row.tenant,
            run_id=row.run_id,
            spec=RunSpec.from_json(json.loads(row.spec)),
            dataset_manifest_sha256=row.dataset_manifest_sha256,
            job=self._jobs.read(session, job),
            fingerprint=row.fingerprint,
            checkpoint=Artifact.from_json(row.checkpoint) if row.checkpoint else None,
            checkpoint_step=row.checkpoint_step,
            metrics=json.loads(row.metrics),
            train_s=row.train_s,
            num_threads=row.num_threads,
        )

    def _row(self, session: Session, tenant: str, run_id: str, *, lock: bool = False, field: str = "name") -> RunRow:
        row = session.get(RunRow, (tenant, run_id), with_for_update=lock)
        if row is None:
            raise NotFound("RUN_NOT_FOUND", f"there is no run runs/{run_id}", field=field)
        return row


def _newest(run: Run, kind: str) -> Select[RunEventRow]:
    query = select(RunEventRow).where(
        RunEventRow.tenant == run.tenant, RunEventRow.run_id == run.run_id, RunEventRow.kind == kind
    )
    return query.order_by(RunEventRow.sequence.desc()).limit(1)


def _closes(kind: str, payload: Mapping[str, Any]) -> bool:
    return kind == "state" and JobState[payload["state"]].final


def final_state(state: JobState, error: JobError | None = None) -> tuple[str, dict[str, Any]]:
    """The event that closes a history."""
    return "state", {"state": state.name, **({"error": asdict(error)} if error else {})}
