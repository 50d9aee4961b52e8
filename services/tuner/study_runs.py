"""Handles RunStudy: checks how a study is to be run, and submits the job that runs it."""

from dataclasses import replace

from common.database import Database
from common.errors import AlreadyExists, FailedPrecondition
from common.jobs import JobRunner, JobState, JobStore
from deepseek.search.study_run import StudyRunSpec
from deepseek.trainjob.runspec import RunSpec
from services.tuner import rows
from services.tuner.ports import Trainer
from services.tuner.resources import study_name
from services.tuner.run_rows import given_spec, read_run, write_run
from services.tuner.studies import StudyService
from services.tuner.study import StudyView
from services.tuner.study_job import JOB_KIND, job_spec


class StudyRunService:
    """Starts the jobs that run studies. Thread-safe.

    Args:
        database: Migrated database, which holds studies and jobs.
        jobs: Job store in the same database.
        runner: Job runner, which is notified of new jobs.
        studies: Studies in the same database.
        trainer: Trainer that checks the specs of runs.
    """

    def __init__(
        self, database: Database, jobs: JobStore, runner: JobRunner, studies: StudyService, trainer: Trainer
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._runner = runner
        self._studies = studies
        self._trainer = trainer

    def run(self, tenant: str, name: str, spec: StudyRunSpec) -> StudyView:
        """Starts to run a study, or continues it. Idempotent.

        Args:
            tenant: Tenant that owns the study.
            name: Name of the study.
            spec: Spec from the caller.

        Raises:
            NotFound: STUDY_NOT_FOUND, or an error of the trainer about the run spec.
            InvalidArgument: The spec is invalid.
            AlreadyExists: RUN_SPEC_DIFFERS.
            FailedPrecondition: STUDY_RUNNING or STUDY_STOPPED, or an error of the trainer about the run spec.
            ResourceExhausted: QUOTA_EXCEEDED.
        """
        study = self._studies.get(tenant, name)
        given = spec.canonical(with_budget=False)
        if self._is_repeated(tenant, study, spec, given):
            return study
        complete, sample = spec.completed(study.spec)
        complete = self._resolved(tenant, complete, sample)
        with self._database.transaction() as session:
            # Another call may have started a job meanwhile.
            study = replace(
                rows.read_study(session, tenant, study.study_id), run=read_run(session, tenant, study.study_id)
            )
            if not self._is_repeated(tenant, study, spec, given):
                job = self._jobs.submit(
                    session, tenant=tenant, kind=JOB_KIND, spec=job_spec(name), result=study_name(study.study_id)
                )
                write_run(
                    session,
                    tenant,
                    study.study_id,
                    job_id=job.name.removeprefix("jobs/"),
                    spec=complete,
                    given=given,
                    start_sequence=study.sequence,
                )
        self._runner.wake()
        self._studies.wake()
        return self._studies.get(tenant, name)

    def _is_repeated(self, tenant: str, study: StudyView, spec: StudyRunSpec, given: str) -> bool:
        """Returns whether a call repeats an earlier one, whose job has not failed.

        Raises:
            AlreadyExists: RUN_SPEC_DIFFERS.
            FailedPrecondition: STUDY_RUNNING or STUDY_STOPPED.
        """
        name, run = study_name(study.study_id), study.run
        if run is not None:
            with self._database.snapshot() as session:
                is_same = given_spec(session, tenant, study.study_id) == given
            if is_same and run.spec.budget == spec.budget and run.job.state != JobState.FAILED:
                return True
            if not run.job.state.final:
                message = f"{name} is being run with another spec; wait for its end, or stop it"
                raise FailedPrecondition("STUDY_RUNNING", message, field="name")
            if not is_same and run.num_epochs:
                message = f"{name} has trials that were trained with another run spec; create another study"
                raise AlreadyExists("RUN_SPEC_DIFFERS", message, field="spec")
        if study.stopped:
            raise FailedPrecondition("STUDY_STOPPED", f"{name} was stopped; create another study", field="name")
        return False

    def _resolved(self, tenant: str, spec: StudyRunSpec, sample: RunSpec) -> StudyRunSpec:
        """Lets the trainer check one run. Returns the spec without aliases, so that all runs use the same versions."""
        checked = self._trainer.check(tenant, sample, path="spec.run")
        run = spec.run
        for field in ("dataset_version", "init"):
            if getattr(run, field) == getattr(sample, field):  # i.e. no parameter sets it
                run = replace(run, **{field: getattr(checked, field)})
        return replace(spec, run=run)
