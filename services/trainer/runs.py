"""Training runs in the database: their specs, histories and results.

The state of a run is the state of its job (`common.jobs`). Normally, only the handler that holds the job's lease adds
to the run's history. A run cancelled while it is pending has no handler, so the history is closed with the job's final
state when a caller first reads the run (`close_history`).
"""

import json
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from common.artifacts import Artifact
from common.database import Database, PageRequest, fetch_page, now_us
from common.errors import NotFound
from common.jobs import Job, JobState, JobStore
from common.jobs.history import History, RunEvent, final_state
from common.jobs.job import UNFINISHED, JobRow
from common.names import parse
from deepseek.trainjob.runspec import RunSpec
from services.trainer.answers import restored, settled
from services.trainer.labels import Labels
from services.trainer.run import Run, read_run
from services.trainer.superseded import Superseded, replace_best
from services.trainer.tables import DirectiveRow, ExportRow, RunEventRow, RunRow
from services.trainer.twins import has_twin


class RunStore:
    """Training runs of all tenants. Thread-safe; several processes may share the database.

    Args:
        database: Migrated database.
        jobs: Job store in the same database.
    """

    def __init__(self, database: Database, jobs: JobStore) -> None:
        self._database = database
        self._jobs = jobs
        self._history = History(database, RunEventRow)

    def create(
        self,
        session: Session,
        job: Job,
        run_id: str,
        spec: RunSpec,
        dataset_manifest_sha256: str,
        fingerprint: str,
        *,
        adopt: bool = False,
        exportable: bool = False,
        init_manifest: str | None = None,
        warnings: Collection[str] = (),
        noise_multiplier: float | None = None,
    ) -> str:
        """Stores a new run in the transaction that submits the run's job, and returns the run's name.

        Args:
            session: Session of the transaction.
            job: Job that executes the run.
            run_id: Id of the run.
            spec: Spec with all defaults filled in.
            dataset_manifest_sha256: Digest of the data set version's manifest.
            fingerprint: Fingerprint, which is the same for equal runs.
            adopt: Whether to start from the last checkpoint of an equal run that failed or was cancelled.
            exportable: Whether the run fails if its model cannot be exported.
            init_manifest: Digest of the manifest of the model version from which the run starts, if there is one.
            warnings: Warnings that the run's events contain from the start.
            noise_multiplier: Noise multiplier of a private run.
        """
        earlier = self._unfinished(session, job.tenant, fingerprint) if adopt else None
        row = RunRow(
            tenant=job.tenant,
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
            exportable=exportable,
            best_weights=earlier.best_weights if earlier else None,
            init_manifest=init_manifest,
            noise_multiplier=noise_multiplier,
        )
        session.add(row)
        session.flush()
        events = [("state", {"state": JobState.PENDING.name}), *(("warning", {"message": one}) for one in warnings)]
        self.append(session, row, events)
        return f"runs/{run_id}"

    def find_equal(self, session: Session, tenant: str, fingerprint: str, states: Collection[JobState]) -> str | None:
        """Returns the name of the newest run with this fingerprint, in one of these states, that got no directives."""
        query = (
            select(RunRow.run_id)
            .join(JobRow, JobRow.job_id == RunRow.job_id)
            .where(RunRow.tenant == tenant, RunRow.fingerprint == fingerprint)
            .where(JobRow.state.in_([state.value for state in states]), RunRow.num_directives.is_(None))
            .order_by(RunRow.create_us.desc(), RunRow.run_id.desc())
        )
        run_id = session.scalars(query.limit(1)).first()
        return f"runs/{run_id}" if run_id else None

    def get(self, tenant: str, name: str, *, field: str = "name") -> Run:
        """Returns a run.

        Raises:
            NotFound: RUN_NOT_FOUND.
            InvalidArgument: BAD_NAME.
        """
        (run_id,) = parse(name, "runs/{}", field=field)
        with self._database.snapshot() as session:
            return self._run(session, self.row(session, tenant, run_id, field=field))

    def list(self, tenant: str, page: PageRequest, *, active_only: bool = False) -> tuple[Sequence[Run], str]:
        """Returns a page of runs, newest first, and the token of the next page.

        With `active_only`, only the runs that have not ended are returned.
        """
        query = select(RunRow).where(RunRow.tenant == tenant)
        if active_only:
            active = select(JobRow.job_id).where(JobRow.tenant == tenant, JobRow.state.in_(UNFINISHED))
            query = query.where(RunRow.job_id.in_(active))
        with self._database.snapshot() as session:
            rows, token = fetch_page(session, query, (RunRow.create_us, RunRow.run_id), page, descending=True)
            return [self._run(session, row) for row in rows], token

    def active(self, session: Session, tenant: str, budget: str) -> Sequence[Run]:
        """Returns the runs that share a budget and have not ended."""
        query = (
            select(RunRow)
            .join(JobRow, JobRow.job_id == RunRow.job_id)
            .where(RunRow.tenant == tenant, RunRow.spec.contains(budget, autoescape=True), JobRow.state.in_(UNFINISHED))
        )
        runs = [self._run(session, row) for row in session.scalars(query)]
        return [run for run in runs if run.spec.privacy and run.spec.privacy.budget == budget]

    def publish(
        self,
        session: Session,
        run: Run,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        train_s: float | None = None,
        best: Mapping[str, Any] | None = None,
        num_threads: int | None = None,
    ) -> None:
        """Appends events in the lease holder's fenced transaction. A checkpoint event also updates the run's row.

        Args:
            session: Session from `Lease.transaction` or `Lease.complete`.
            run: The run.
            events: Pairs of kind and payload.
            train_s: Training time of the run so far, in seconds; None to leave it unchanged.
            best: The best epoch: its `step`, `epoch` and `metrics`; None unless the run has succeeded.
            num_threads: Number of threads per worker to store; None to leave it unchanged.
        """
        row = self.row(session, run.tenant, run.run_id, lock=True)
        for kind, payload in events:
            if kind == "checkpoint" and payload["artifact"] != row.checkpoint:
                row.previous_checkpoint, row.checkpoint = row.checkpoint, payload["artifact"]
                row.checkpoint_step = payload["step"]
            if kind == "checkpoint" and payload.get("best_weights"):
                replace_best(row, payload["best_weights"])
        if train_s is not None:
            row.train_s = train_s
        if best is not None:
            row.best_step, row.best_epoch, row.metrics = best["step"], best["epoch"], json.dumps(best["metrics"])
            # The weights of the last epoch are not stored separately, because they are in the last checkpoint.
            if row.best_step == row.checkpoint_step:
                row.best_weights = row.checkpoint
        if num_threads is not None:
            row.num_threads = num_threads
        self.append(session, row, events)

    def superseded(self, run: Run) -> Sequence[Superseded]:
        """Returns the checkpoints, oldest first, that precede the run's last two and have not been dropped yet.

        The weights of epochs that are no longer the best follow the checkpoints. A new run can start only from a
        checkpoint that the row of some run refers to. A checkpoint to which no row refers is therefore never needed
        again. If another run is executing and its files may have the same content, nothing is returned, because that
        run may have stored a file to which its row does not refer yet.
        """
        with self._database.snapshot() as session:
            row = self.row(session, run.tenant, run.run_id)
            if has_twin(session, row):
                return []
            after = row.dropped_to or 0
            events = self._history.read(session, run.tenant, run.run_id, after=after, kind="checkpoint")
            texts = [event.payload["artifact"] for event in events]
            stale = json.loads(row.stale_weights or "[]")
            columns = (RunRow.checkpoint, RunRow.previous_checkpoint, RunRow.best_weights)
            wanted = [*texts, *(text for text, _ in stale)]
            users = session.execute(
                select(*columns).where(RunRow.tenant == run.tenant, or_(*(column.in_(wanted) for column in columns)))
            )
            needed = {text for user in users for text in user} | set(session.scalars(restored(run.tenant)))
            kept = (row.checkpoint, row.previous_checkpoint)
            return [
                Superseded(Artifact.from_json(text), event.sequence, following.time_us, text in needed)
                for text, event, following in zip(texts, events, events[1:], strict=False)
                if text not in kept
            ] + [Superseded(Artifact.from_json(text), 0, next_us, text in needed) for text, next_us in stale]

    def kept_checkpoints(self, session: Session, row: RunRow) -> dict[int, str]:
        """Returns the last two checkpoints of a run by the number of completed steps."""
        events = self._history.read(session, row.tenant, row.run_id, after=row.dropped_to or 0, kind="checkpoint")
        found = {event.payload["step"]: event.payload["artifact"] for event in events}
        if row.checkpoint:
            found[row.checkpoint_step] = row.checkpoint
        return {step: text for step, text in found.items() if text in (row.checkpoint, row.previous_checkpoint)}

    def drop(self, session: Session, run: Run, superseded: Sequence[Superseded]) -> None:
        """Records, in the lease holder's transaction, that superseded checkpoints and weights have been dropped."""
        row = self.row(session, run.tenant, run.run_id, lock=True)
        row.dropped_to = max([row.dropped_to or 0, *(one.sequence for one in superseded)])
        dropped = {one.artifact.to_json() for one in superseded if not one.sequence}
        stale = [one for one in json.loads(row.stale_weights or "[]") if one[0] not in dropped]
        row.stale_weights = json.dumps(stale) if stale else None

    def update(self, tenant: str, name: str, labels: Labels) -> Run:
        """Changes the labels of a run.

        Raises:
            NotFound: RUN_NOT_FOUND.
            InvalidArgument: BAD_NAME, or BAD_VALUE if the run would have too many tags.
        """
        run = self.get(tenant, name)
        with self._database.transaction() as session:
            row = self.row(session, tenant, run.run_id, lock=True)
            row.display_name = row.display_name if labels.display_name is None else labels.display_name
            row.note = row.note if labels.note is None else labels.note
            row.tags = json.dumps(labels.tags(json.loads(row.tags or "{}")))
        return self.get(tenant, name)

    def delete(self, run: Run) -> None:
        """Deletes the rows of an ended run: the run, its history and its finished exports."""
        with self._database.transaction() as session:
            for table in (RunEventRow, DirectiveRow, ExportRow, RunRow):
                session.execute(delete(table).where(table.tenant == run.tenant, table.run_id == run.run_id))

    def close_history(self, tenant: str, name: str) -> Run:
        """Returns a run. If the run's job has ended but its history lacks the final state, adds that state first."""
        run = self.get(tenant, name)
        if run.job.state.final:
            with self._database.transaction() as session:
                row = self.row(session, tenant, run.run_id, lock=True)
                last = self._history.last(session, tenant, run.run_id)
                if last is not None and not last.closes:
                    self.append(session, row, [final_state(run.job.state, run.job.error)])
            self.wake()
        return run

    def last_state(self, session: Session, run: Run) -> str:
        """Returns the name of the last state in the run's history."""
        return self._history.last_state(session, run.tenant, run.run_id)

    def precision(self, run: Run) -> Mapping[str, Any] | None:
        """Returns the numeric precision recorded for the run's latest attempt; None if the history records none."""
        with self._database.snapshot() as session:
            last = self._history.last(session, run.tenant, run.run_id, kind="precision")
        return last.payload if last else None

    def watch(
        self, tenant: str, name: str, *, after: int, stop: threading.Event, stored_only: bool = False
    ) -> Iterator[RunEvent]:
        """Yields the events after a sequence number, then new events, until the run ends or `stop` is set.

        If `stored_only` is set, only the events that are stored already are yielded.
        """
        run = self.get(tenant, name)
        return self._history.watch(
            tenant,
            run.run_id,
            after=after,
            stop=stop,
            has_ended=lambda: self.close_history(tenant, name).job.state.final,
            stored_only=stored_only,
        )

    def stored(self, run: Run, after: int) -> Sequence[RunEvent]:
        """Returns some stored events after a sequence number, in order; none if there is none."""
        with self._database.snapshot() as session:
            return self._history.read(session, run.tenant, run.run_id, after=after)

    def last_sequence(self, run: Run) -> int:
        """Returns the sequence number of a run's last event."""
        with self._database.snapshot() as session:
            return self.row(session, run.tenant, run.run_id).num_events

    def append(self, session: Session, row: RunRow, events: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Adds events, given as pairs of kind and payload, to a run's history, and answers its directives."""
        for event in settled(session, row, events):
            self._history.append(session, row, [event])

    def wake(self) -> None:
        """Notifies the watchers in this process of new events. Watchers in other processes poll."""
        self._history.wake()

    @property
    def num_changes(self) -> int:
        """Number of calls of `wake` so far; see `wait`."""
        return self._history.num_changes

    def wait(self, num_changes: int) -> None:
        """Waits until a run may have new events since `num_changes` was read, but at most half a second."""
        self._history.wait(num_changes)

    def row(self, session: Session, tenant: str, run_id: str, *, lock: bool = False, field: str = "name") -> RunRow:
        """Returns the row of a run; raises NotFound (RUN_NOT_FOUND) if there is none. `lock` locks it until the end."""
        row = session.get(RunRow, (tenant, run_id), with_for_update=lock)
        if row is None:
            raise NotFound(
                "RUN_NOT_FOUND", f"runs/{run_id} does not exist; ListRuns returns the existing runs", field=field
            )
        return row

    def _unfinished(self, session: Session, tenant: str, fingerprint: str) -> RunRow | None:
        """Returns the failed or cancelled run with this fingerprint that got furthest; None if there is none."""
        states = (JobState.FAILED, JobState.CANCELLING, JobState.CANCELLED)
        query = (
            select(RunRow)
            .join(JobRow, JobRow.job_id == RunRow.job_id)
            .where(RunRow.tenant == tenant, RunRow.fingerprint == fingerprint, RunRow.checkpoint.is_not(None))
            .where(JobRow.state.in_([state.value for state in states]), RunRow.num_directives.is_(None))
            .order_by(RunRow.checkpoint_step.desc(), RunRow.create_us.desc())
        )
        return session.scalars(query.limit(1)).first()

    def _run(self, session: Session, row: RunRow) -> Run:
        # Run and job are read in the same snapshot, so a caller that sees SUCCEEDED also sees the metrics.
        job = session.get(JobRow, row.job_id)
        assert job is not None, "a run and its job are created together"
        return read_run(row, self._jobs.read(session, job))
