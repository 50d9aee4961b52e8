"""The job that runs a study on the trainer. `StudyExecution` does the work; this module ends the job.

If this process ends, the next lease holder continues: trials are suggested again under the same client ids, and runs
are submitted again under the same request ids, so neither exists twice.
"""

import json
from collections.abc import Callable
from contextlib import closing
from threading import BoundedSemaphore

from sqlalchemy.orm import Session

from common.errors import UNANSWERED
from common.jobs import Lease, LeaseLost
from services.tuner.ports import Trainer
from services.tuner.resources import parse_study
from services.tuner.run_rows import write_progress
from services.tuner.run_slots import End
from services.tuner.studies import StudyService
from services.tuner.study_execution import StudyExecution

JOB_KIND = "tuner.study"
MAX_STREAMS = 8
"""Number of runs that this process follows by streams, of which a trainer has 32 by default."""


def job_spec(study: str) -> str:
    """Returns the spec of the job that runs a study."""
    return json.dumps({"study": study})


class StudyHandler:
    """Handles jobs of the kind `tuner.study`. Several studies may be run at once, each in its own thread.

    Args:
        studies: Service that suggests trials and stores what is measured.
        trainer: Trainer that executes the runs.
    """

    def __init__(self, studies: StudyService, trainer: Trainer) -> None:
        self._studies = studies
        self._trainer = trainer
        self._turns = BoundedSemaphore(MAX_STREAMS)

    def __call__(self, lease: Lease) -> None:
        """Runs the study of the leased job until its end, or until this process shuts down.

        Raises:
            LeaseLost: Another tuner has taken over the job, or the database does not respond.
        """
        name = str(json.loads(lease.job.spec)["study"])
        try:
            with closing(StudyExecution(lease, name, self._studies, self._trainer, self._turns)) as execution:
                end = execution.run()
        except UNANSWERED as error:  # of the database: the execution itself waits for the trainer
            raise LeaseLost(str(error)) from error
        finally:
            self._studies.wake()
        if end is not None:
            self._finish(lease, name, end)
            self._studies.wake()

    def _finish(self, lease: Lease, name: str, end: End) -> None:
        def effect(reason: str) -> Callable[[Session], None]:
            def store(session: Session) -> None:
                study_id = parse_study(name)
                write_progress(session, lease.job.tenant, study_id, seconds=end.seconds, end_reason=reason)

            return store

        lease.update(message=end.message)
        if end.error is not None:
            lease.fail(end.error, effect(end.error.reason))
        elif end.reason == "STUDY_STOPPED":
            lease.mark_cancelled(effect(end.reason))
        else:

            def complete(session: Session) -> str:
                effect(end.reason)(session)
                return name

            lease.complete(complete)
