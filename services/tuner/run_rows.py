"""Reads and writes how RunStudy runs a study. Callers open the transactions."""

import json
from collections.abc import Collection, Mapping

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from common.errors import FailedPrecondition
from common.jobs.job import JobRow
from deepseek.search.study_run import StudyRunSpec
from services.tuner.study import StudyRunView
from services.tuner.tables import StudyRunRow, TrialRow


def read_run(session: Session, tenant: str, study_id: str) -> StudyRunView | None:
    """Returns how a study is run; None if RunStudy was never called for it."""
    return read_runs(session, tenant, [study_id]).get(study_id)


def read_runs(session: Session, tenant: str, study_ids: Collection[str]) -> Mapping[str, StudyRunView]:
    """Returns how studies are run, by id; without those for which RunStudy was never called."""
    query = (
        select(StudyRunRow, JobRow)
        .join(JobRow, JobRow.job_id == StudyRunRow.job_id)
        .where(StudyRunRow.tenant == tenant, StudyRunRow.study_id.in_(study_ids))
    )
    found = [(row, job) for row, job in session.execute(query)]
    spent = (
        select(TrialRow.study_id, func.count(), func.coalesce(func.sum(TrialRow.last_step), 0))
        .where(
            TrialRow.tenant == tenant,
            TrialRow.study_id.in_([row.study_id for row, _ in found]),
            TrialRow.run.is_not(None),
        )
        .group_by(TrialRow.study_id)
    )
    counts = {study: (num_trials, int(num_epochs or 0)) for study, num_trials, num_epochs in session.execute(spent)}
    views = {}
    for row, job in found:
        num_trials, num_epochs = counts.get(row.study_id, (0, 0))
        views[row.study_id] = StudyRunView(
            StudyRunSpec.from_json(json.loads(row.spec)),
            job.job(),
            row.end_reason,
            num_trials,
            num_epochs,
            row.seconds,
            row.start_sequence,
        )
    return views


def check_not_run(session: Session, tenant: str, study_id: str) -> None:
    """Checks that no job runs a study.

    Raises:
        FailedPrecondition: STUDY_RUNNING.
    """
    run = read_run(session, tenant, study_id)
    if run and not run.job.state.final:
        message = f"studies/{study_id} is being run; stop it first, and wait until its runs have ended"
        raise FailedPrecondition("STUDY_RUNNING", message, field="name")


def given_spec(session: Session, tenant: str, study_id: str) -> str:
    """Returns the spec that the caller of RunStudy sent, without its budget; empty if RunStudy was never called."""
    row = session.get(StudyRunRow, (tenant, study_id))
    return row.given if row else ""


def write_run(
    session: Session, tenant: str, study_id: str, *, job_id: str, spec: StudyRunSpec, given: str, start_sequence: int
) -> None:
    """Stores a new job of a study. What earlier jobs have spent is kept."""
    row = session.get(StudyRunRow, (tenant, study_id))
    if row is None:
        row = StudyRunRow(tenant=tenant, study_id=study_id, seconds=0.0)
        session.add(row)
    row.job_id, row.spec, row.given = job_id, spec.canonical(), given
    row.start_sequence, row.end_reason = start_sequence, ""


def write_progress(session: Session, tenant: str, study_id: str, *, seconds: float, end_reason: str = "") -> None:
    """Stores how long the jobs of a study have executed, and why the last one ended, if it has."""
    row = session.get_one(StudyRunRow, (tenant, study_id))
    row.seconds, row.end_reason = seconds, end_reason
