"""A run whose handler works in this process, without a trainer."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
from sqlalchemy import select
from sqlalchemy.orm import Session

import services.trainer
from common.artifacts import open_store
from common.database import Database
from common.jobs import JobStore, Lease, LeaseLost
from common.names import new_id
from deepseek.trainjob.runspec import RunSpec
from services.trainer import run_job
from services.trainer.clients.ledger import LedgerClient
from services.trainer.directives import DirectiveStore
from services.trainer.mailboxes import Mailboxes
from services.trainer.private_runs import PrivateRuns
from services.trainer.run import Run
from services.trainer.run_job import RunHandler
from services.trainer.runs import RunStore
from services.trainer.tables import RunEventRow
from tests.deepseek.trainjob.jobs import write_job


class InProcessRun:
    """A run and what carries it out, in this process; the workers are processes as ever.

    Args:
        folder: For everything.
        store: Overrides how the workers open the store.
        max_restarts: Of the handler.
    """

    def __init__(self, folder: Path, *, store: Mapping[str, Any] | None = None, max_restarts: int = 3) -> None:
        job = json.loads(write_job(folder, spec={"epochs": 40}).read_text())
        self.directory = folder / "runs"
        self.database = Database(f"sqlite:///{folder / 'trainer.db'}")
        self.database.migrate(Path(services.trainer.__path__[0]) / "migrations")
        self.jobs = JobStore(self.database)
        self.runs = RunStore(self.database, self.jobs)
        directives = DirectiveStore(self.database, self.runs)
        members = {key: job[key] for key in ("store_url", "store_access_key_file", "store_secret_key_file")}
        self.records: list[dict[str, str]] = []
        self.handler = RunHandler(
            self.runs,
            folder,
            self.directory,
            {**members, **(store or {})},
            artifacts=open_store(job["store_url"]),
            record=lambda **record: self.records.append(record),
            private_runs=PrivateRuns(LedgerClient(grpc.insecure_channel("127.0.0.1:1"))),  # these runs are not private
            directives=directives,
            mailboxes=Mailboxes(directives),
            max_restarts=max_restarts,
            stop_grace_s=5,
        )
        spec, digest = RunSpec.from_json(job["spec"]), job["dataset_manifest_sha256"]
        with self.database.transaction() as session:
            self.name = self.create(session, spec, digest)
        self._leases: list[Lease] = []
        self._threads: list[threading.Thread] = []

    def create(self, session: Session, spec: RunSpec, digest: str, *, adopt: bool = False) -> str:
        """Stores a run and its job; returns the run's name."""
        run_id = new_id()
        job_spec = run_job.job_spec(run_id)
        job = self.jobs.submit(session, tenant="default", kind=run_job.JOB_KIND, spec=job_spec)
        return self.runs.create(session, job, run_id, spec, digest, "f" * 64, adopt=adopt)

    def claim(self, owner: str) -> Lease:
        """Takes the run's job up."""
        lease = self.jobs.claim(owner, [run_job.JOB_KIND], 120)
        assert lease is not None
        self._leases.append(lease)
        return lease

    def carry_out(self, lease: Lease) -> threading.Thread:
        """Carries the run out in a thread, until the lease is lost at the latest."""

        def work() -> None:
            try:
                self.handler(lease)
            except LeaseLost:
                lease.lost.set()

        thread = threading.Thread(target=work)
        thread.start()
        self._threads.append(thread)
        return thread

    def run(self) -> Run:
        """The run as it stands."""
        return self.runs.get("default", self.name)

    def starts(self) -> list[Mapping[str, Any]]:
        """What the history tells of each start of the workers."""
        return self.events("attempt")

    def events(self, kind: str) -> list[Mapping[str, Any]]:
        """The entries of one kind in the history."""
        query = select(RunEventRow.payload).where(RunEventRow.kind == kind).order_by(RunEventRow.sequence)
        with self.database.snapshot() as session:
            return [json.loads(payload) for payload in session.scalars(query)]

    def close(self) -> None:
        """Ends whatever still runs."""
        for lease in self._leases:
            lease.lost.set()
        for thread in self._threads:
            thread.join(30)
        self.database.close()
