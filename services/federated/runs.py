"""Federated runs in the database: their specs and histories.

The state of a run is the state of its job (`common.jobs`). Only the handler that holds the job's lease adds to the
run's history, except that a run cancelled while it is pending is closed when a caller first reads it.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from common.database import Database, PageRequest, fetch_page, now_us
from common.errors import NotFound
from common.jobs import Job, JobState, JobStore
from common.jobs.history import History, RunEvent
from common.jobs.job import UNFINISHED, JobRow
from common.names import parse
from deepseek.federated.rounds import RoundState
from deepseek.federated.run_spec import FederatedRunSpec
from deepseek.privacy.releases import Release
from services.federated.run import FederatedRun, PrivacyPlan, read_run
from services.federated.tables import PublicationRow, RoundRow, RunEventRow, RunRow

RUN_PATTERN = "federations/{}/runs/{}"

Event = tuple[str, Mapping[str, Any]]
"""Kind and payload of an event."""


class RunStore:
    """Federated runs of all tenants. Thread-safe; several processes may share the database.

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
        federation_id: str,
        spec: FederatedRunSpec,
        nodes: Sequence[str],
        dataset_manifest_sha256: str,
        *,
        init_manifest: str | None,
        privacy: PrivacyPlan | None,
        warnings: Sequence[Event],
    ) -> str:
        """Stores a new run in the transaction that submits the run's job, and returns the run's name.

        Args:
            session: Session of the transaction.
            job: Job that executes the run.
            run_id: Id of the run.
            federation_id: Federation that executes the run.
            spec: Spec with all defaults filled in.
            nodes: Fingerprints of the federation's nodes, in ascending order.
            dataset_manifest_sha256: Digest of the manifest of the reference data.
            init_manifest: Digest of the manifest of the model version from which the run starts, if there is one.
            privacy: How the run is protected; None if it is not.
            warnings: Events to add to the history.
        """
        row = RunRow(
            tenant=job.tenant,
            run_id=run_id,
            federation_id=federation_id,
            job_id=job.name.removeprefix("jobs/"),
            create_us=now_us(),
            spec=spec.canonical(),
            nodes=json.dumps(list(nodes)),
            dataset_manifest_sha256=dataset_manifest_sha256,
            init_manifest=init_manifest,
            privacy=privacy.to_json() if privacy else None,
            num_released=0,
            num_events=0,
        )
        session.add(row)
        session.flush()
        self._history.append(session, row, [("state", {"state": JobState.PENDING.name}), *warnings])
        return f"federations/{federation_id}/runs/{run_id}"

    def get(self, tenant: str, name: str, *, field: str = "name") -> FederatedRun:
        """Returns a run.

        Raises:
            NotFound: RUN_NOT_FOUND.
            InvalidArgument: BAD_NAME.
        """
        federation_id, run_id = parse(name, RUN_PATTERN, field=field)
        with self._database.snapshot() as session:
            row = self.row(session, tenant, run_id, field=field)
            if row.federation_id != federation_id:
                raise _not_found(name, field)
            return self._run(session, row)

    def list(
        self, tenant: str, federation_id: str, page: PageRequest, *, active_only: bool = False
    ) -> tuple[Sequence[FederatedRun], str]:
        """Returns a page of a federation's runs, newest first, and the token of the next page."""
        query = select(RunRow).where(RunRow.tenant == tenant, RunRow.federation_id == federation_id)
        if active_only:
            active = select(JobRow.job_id).where(JobRow.tenant == tenant, JobRow.state.in_(UNFINISHED))
            query = query.where(RunRow.job_id.in_(active))
        scope = f"federations/{federation_id}/runs"
        with self._database.snapshot() as session:
            key = (RunRow.create_us, RunRow.run_id)
            rows, token = fetch_page(session, query, key, page, scope=scope, descending=True)
            return [self._run(session, row) for row in rows], token

    def publish(self, session: Session, tenant: str, run_id: str, events: Sequence[Event]) -> RunRow:
        """Appends events in the lease holder's fenced transaction, and returns the run's row."""
        row = self.row(session, tenant, run_id, lock=True)
        self._history.append(session, row, events)
        return row

    def prepared(self, session: Session, run: FederatedRun, *, recipe: str, initial_model: str) -> None:
        """Stores, in the lease holder's transaction, the digests of what the first attempt has prepared."""
        row = self.row(session, run.tenant, run.run_id, lock=True)
        row.recipe, row.initial_model = recipe, initial_model

    def planned(self, session: Session, tenant: str, budget: str) -> Mapping[str, Release]:
        """Returns what the active runs that share a budget will still debit, by the id of the run.

        A round is included until its debit is stored here, so for a moment, or after a crash, the ledger may have it,
        too. Then, a run may be refused that would fit, but no run is started that does not.
        """
        query = (
            select(RunRow)
            .join(JobRow, JobRow.job_id == RunRow.job_id)
            .where(RunRow.tenant == tenant, RunRow.privacy.is_not(None), JobRow.state.in_(UNFINISHED))
        )
        runs = [self._run(session, row) for row in session.scalars(query)]
        debited = select(RoundRow.run_id).where(
            RoundRow.tenant == tenant,
            RoundRow.run_id.in_([run.run_id for run in runs]),
            RoundRow.state.in_([RoundState.COLLECTED.name, RoundState.DEBITED.name]),
            RoundRow.debit != "",
        )
        num_debited = Counter(session.scalars(debited))
        planned = {}
        for run in runs:
            left = run.spec.num_rounds - run.num_released - num_debited[run.run_id]
            if run.privacy is not None and run.privacy.budget == budget and left > 0:
                release = run.privacy.release
                planned[run.run_id] = replace(release, count=release.count * left)
        return planned

    def is_active(self, session: Session, tenant: str, federation_id: str) -> bool:
        """Returns whether a run of the federation has not ended."""
        query = (
            select(RunRow.run_id)
            .join(JobRow, JobRow.job_id == RunRow.job_id)
            .where(RunRow.tenant == tenant, RunRow.federation_id == federation_id, JobRow.state.in_(UNFINISHED))
        )
        return session.scalars(query.limit(1)).first() is not None

    def delete_all(self, session: Session, tenant: str, federation_id: str) -> None:
        """Deletes the runs of a federation with everything that belongs to them."""
        runs = select(RunRow.run_id).where(RunRow.tenant == tenant, RunRow.federation_id == federation_id)
        for table in (RunEventRow, RoundRow, PublicationRow):
            session.execute(delete(table).where(table.tenant == tenant, table.run_id.in_(runs)))
        session.execute(delete(RunRow).where(RunRow.tenant == tenant, RunRow.federation_id == federation_id))

    def last_state(self, session: Session, run: FederatedRun) -> str:
        """Returns the name of the last state in the run's history."""
        return self._history.last_state(session, run.tenant, run.run_id)

    def close_history(self, tenant: str, name: str) -> FederatedRun:
        """Returns a run. If the run's job has ended but its history lacks the final state, adds that state first."""
        run = self.get(tenant, name)
        if run.job.state.final:
            with self._database.transaction() as session:
                row = self.row(session, tenant, run.run_id, lock=True)
                self._history.close(session, row, run.job.state, run.job.error)
            self.wake()
        return run

    def watch(
        self, tenant: str, name: str, *, after: int, stop: threading.Event, stored_only: bool = False
    ) -> Iterator[RunEvent]:
        """Yields the events after a sequence number, then new events, until the run ends or `stop` is set."""
        run = self.get(tenant, name)
        return self._history.watch(
            tenant,
            run.run_id,
            after=after,
            stop=stop,
            has_ended=lambda: self.close_history(tenant, name).job.state.final,
            stored_only=stored_only,
        )

    def wake(self) -> None:
        """Notifies the watchers in this process of new events. Watchers in other processes poll."""
        self._history.wake()

    def row(self, session: Session, tenant: str, run_id: str, *, lock: bool = False, field: str = "name") -> RunRow:
        """Returns the row of a run; raises NotFound (RUN_NOT_FOUND) if there is none. `lock` locks it until the end."""
        row = session.get(RunRow, (tenant, run_id), with_for_update=lock)
        if row is None:
            raise _not_found(f"the run {run_id}", field)
        return row

    def _run(self, session: Session, row: RunRow) -> FederatedRun:
        job = session.get(JobRow, row.job_id)
        assert job is not None, "a run and its job are created together"
        return read_run(row, self._jobs.read(session, job))


def warning(reason: str, message: str) -> Event:
    """Returns an event that warns of a problem which does not end the run."""
    return "warning", {"reason": reason, "message": message}


def _not_found(what: str, field: str) -> NotFound:
    return NotFound(
        "RUN_NOT_FOUND", f"{what} does not exist; `deepseek federated list` lists the runs of a federation", field=field
    )
