"""External runs: programs outside the mesh execute them and log their figures.

An external run has a job of its own kind, which no handler claims: the calls of the program change its state. A figure
is stored once, whatever a program that retries or resumes sends again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from common.database import Database, now_us
from common.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from common.jobs import JobError, JobState, JobStore
from common.jobs.history import final_state
from common.jobs.job import UNFINISHED, JobRow
from common.names import new_id
from deepseek.trainjob.runspec import RunSpec
from services.trainer.labels import Labels
from services.trainer.run import Run
from services.trainer.runs import RunStore
from services.trainer.tables import RunRow

JOB_KIND = "trainer.external"
MAX_STEPS = 1000
"""Maximum number of steps per call."""
MAX_METRICS, MAX_METRIC_NAME = 1000, 200
"""Maximum number of metrics per run, and of characters in the name of a metric."""
MAX_ERROR = 10_000
"""Number of characters after which the reason of a failure is cut."""
MAX_UNFINISHED = 1000
"""Maximum number of unfinished external runs per tenant."""


@dataclass(frozen=True)
class LoggedStep:
    """Figures of a run at one step."""

    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class End:
    """The end of an external run: a final state and, if the run failed, the reason."""

    state: JobState
    error: str = ""


class ExternalRuns:
    """External runs of all tenants. Thread-safe; several processes may share the database.

    Args:
        database: Migrated database.
        jobs: Job store in the same database.
        runs: Run store in the same database.
    """

    def __init__(self, database: Database, jobs: JobStore, runs: RunStore) -> None:
        self._database = database
        self._jobs = jobs
        self._runs = runs

    def create(self, session: Session, tenant: str, labels: Labels, parameters: Mapping[str, Any]) -> str:
        """Stores a new run in the state RUNNING, and returns its name.

        Raises:
            ResourceExhausted: QUOTA_EXCEEDED.
        """
        run_id = new_id()
        unfinished = select(func.count()).where(
            JobRow.tenant == tenant, JobRow.kind == JOB_KIND, JobRow.state.in_(UNFINISHED)
        )
        if (num_runs := session.scalar(unfinished) or 0) >= MAX_UNFINISHED:
            message = (
                f"{tenant} has {num_runs} unfinished external runs; at most {MAX_UNFINISHED} are allowed. End those "
                "whose programs have gone with `deepseek run stop RUN`"
            )
            raise ResourceExhausted("QUOTA_EXCEEDED", message)
        job = self._jobs.submit(
            session, tenant=tenant, kind=JOB_KIND, spec="{}", result=f"runs/{run_id}", external=True
        )
        row = RunRow(
            tenant=tenant,
            run_id=run_id,
            job_id=job.name.removeprefix("jobs/"),
            create_us=now_us(),
            spec=RunSpec().canonical(),
            dataset_manifest_sha256="",
            fingerprint="",
            num_events=0,
            checkpoint_step=0,
            metrics="{}",
            train_s=0.0,
            display_name=labels.display_name,
            note=labels.note,
            tags=json.dumps(labels.tags({})),
            parameters=json.dumps(dict(parameters)),
        )
        session.add(row)
        session.flush()
        self._runs.append(session, row, [("state", {"state": JobState.RUNNING.name})])
        return f"runs/{run_id}"

    def log(self, tenant: str, name: str, steps: Sequence[LoggedStep], end: End | None = None) -> Run:
        """Adds the figures that are not stored yet, and ends the run if `end` is given.

        Raises:
            NotFound: RUN_NOT_FOUND.
            InvalidArgument: BAD_VALUE.
            FailedPrecondition: NOT_EXTERNAL or RUN_ENDED.
        """
        _check(steps, end)
        run = self._runs.get(tenant, name)
        if not run.is_external:
            message = f"the trainer executes {name}; only a run that `mesh.runs.log` has created accepts figures"
            raise FailedPrecondition("NOT_EXTERNAL", message, field="name")
        with self._database.transaction() as session:
            row = self._runs.row(session, tenant, run.run_id, lock=True)
            job = session.get_one(JobRow, row.job_id, with_for_update=True)
            state, events = JobState(job.state), _add(row, steps)
            if state.final and (events or (end and end.state is not state)):
                message = f"{name} has ended with the state {state.name}; create another run"
                raise FailedPrecondition("RUN_ENDED", message, field="name")
            if end and not state.final:
                error = (
                    JobError("UNKNOWN", "PROGRAM_FAILED", _text(end.error)) if end.state is JobState.FAILED else None
                )
                if error:
                    job.error_code, job.error_reason, job.error_message = error.code, error.reason, error.message
                job.finish(end.state, now_us())
                events.append(final_state(end.state, error))
            row.train_s = (now_us() - row.create_us) / 1e6 if events else row.train_s
            self._runs.append(session, row, events)
        self._runs.wake()
        return self._runs.get(tenant, name)


def _text(error: str) -> str:
    """Returns the reason of a failure in a form that every database can store."""
    return error[:MAX_ERROR].replace("\0", "\ufffd")


def _add(row: RunRow, steps: Sequence[LoggedStep]) -> list[tuple[str, dict[str, Any]]]:
    """Records the new figures in the row, and returns one event per step that has any."""
    logged, metrics = json.loads(row.logged or "{}"), json.loads(row.metrics)
    events: list[tuple[str, dict[str, Any]]] = []
    for one in steps:
        new = {name: value for name, value in one.metrics.items() if one.step > logged.get(name, -1)}
        if new:
            events.append(("step", {"step": one.step, "metrics": new}))
            logged.update(dict.fromkeys(new, one.step))
            metrics.update(new)
    if len(logged) > MAX_METRICS:
        message = f"the run would have {len(logged)} metrics; at most {MAX_METRICS} are allowed"
        raise InvalidArgument("BAD_VALUE", message, field="steps")
    row.logged, row.metrics = json.dumps(logged), json.dumps(metrics)
    return events


def _check(steps: Sequence[LoggedStep], end: End | None) -> None:
    if len(steps) > MAX_STEPS:
        message = f"the call has {len(steps)} steps; at most {MAX_STEPS} are allowed"
        raise InvalidArgument("BAD_VALUE", message, field="steps")
    for i, one in enumerate(steps):
        if one.step < 0:
            message = f"step is {one.step}; it must be at least 0"
            raise InvalidArgument("BAD_VALUE", message, field=f"steps[{i}].step")
        if not one.metrics or not all(one.metrics):
            message = "a step needs at least one metric, and every metric a name"
            raise InvalidArgument("BAD_VALUE", message, field=f"steps[{i}].metrics")
        if (num_characters := max(map(len, one.metrics))) > MAX_METRIC_NAME:
            message = f"the name of a metric has {num_characters} characters; at most {MAX_METRIC_NAME} are allowed"
            raise InvalidArgument("BAD_VALUE", message, field=f"steps[{i}].metrics")
    if end and not end.state.final:
        message = f"{end.state.name} is not a final state; use SUCCEEDED, FAILED or CANCELLED"
        raise InvalidArgument("BAD_VALUE", message, field="end")
