"""Finds runs that may store files with the same content, which the store then keeps only once."""

import json

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.jobs.job import HELD, JobRow
from services.trainer.tables import RunRow

_IDENTITY = ("model", "optimizer", "batch_size", "seed")
"""Parts of a spec. Runs that differ in one of them have unrelated weights."""


def has_twin(session: Session, row: RunRow) -> bool:
    """Returns whether another run is executing and trains the same model in the same way, at least for some epochs."""
    query = (
        select(RunRow.spec)
        .join(JobRow, JobRow.job_id == RunRow.job_id)
        .where(RunRow.tenant == row.tenant, RunRow.run_id != row.run_id, JobRow.state.in_(HELD))
        .where(RunRow.dataset_manifest_sha256 == row.dataset_manifest_sha256)
    )
    own, others = json.loads(row.spec), map(json.loads, session.scalars(query))
    return any(all(other.get(part) == own.get(part) for part in _IDENTITY) for other in others)
