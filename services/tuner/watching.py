"""Watches a study: reads its changes, and waits for the next one."""

import threading
from collections.abc import Iterator

from common.database import Database
from common.errors import InvalidArgument, NotFound
from services.tuner import rows
from services.tuner.changes import Changes
from services.tuner.run_rows import read_run
from services.tuner.study import StudyRunView, TrialView
from services.tuner.tables import TrialRow

_POLL_S = 1.0
"""Seconds after which a watcher looks for changes by other processes."""
_NUM_READ = 500
"""Number of changed trials that a watcher reads at once."""


def watch_trials(
    database: Database,
    changes: Changes,
    tenant: str,
    study_id: str,
    *,
    after: int,
    stop: threading.Event,
    stored_only: bool,
) -> Iterator[TrialView | StudyRunView]:
    """Yields the trials of a study that changed after a sequence number, then trials as they change.

    See `StudyService.watch`.

    Args:
        database: Database with the study.
        changes: Changes of this process.
        tenant: Tenant that owns the study.
        study_id: Id of the study.
        after: Sequence number.
        stop: Ends the watch when it is set.
        stored_only: Whether to end without waiting for changes.
    """
    if after < 0:
        message = f"after_sequence is {after}; it must not be negative"
        raise InvalidArgument("BAD_VALUE", message, field="after_sequence")
    uid, shown = "", None
    with changes.watching(tenant, study_id) as watcher:
        while not stop.is_set():
            seen = watcher.num_changes
            with database.snapshot() as session:
                progress = rows.read_progress(session, tenant, study_id)
                run = read_run(session, tenant, study_id)
                query = rows.trials_of(tenant, study_id).where(TrialRow.sequence > after)
                found = list(session.scalars(query.order_by(TrialRow.sequence).limit(_NUM_READ)))
            uid = uid or progress.uid
            if progress.uid != uid:
                message = f"studies/{study_id} was deleted, and another study now has its name; watch again"
                raise NotFound("STUDY_NOT_FOUND", message, field="name")
            if run and run != shown:
                shown = run
                yield run
            for row in found:
                yield TrialView(study_id, rows.trial_of(row))
                after = row.sequence
            if not found:
                is_over = progress.is_idle and run.job.state.final if run else progress.is_over
                if stored_only or is_over:
                    return
                watcher.wait(seen, _POLL_S)
