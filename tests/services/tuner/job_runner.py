"""The parts of a tuner that run studies, with a trainer that a test advances."""

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from common.database import Database, PageRequest, Repeatable
from common.jobs import JobRunner, JobStore
from deepseek.search.study_run import StudyRunSpec
from deepseek.search.study_spec import StudySpec
from deepseek.search.trials import Trial
from services.tuner.studies import StudyService
from services.tuner.study import StudyRunView
from services.tuner.study_job import JOB_KIND, StudyHandler
from services.tuner.study_runs import StudyRunService
from tests.harness.processes import wait_until
from tests.services.trainer.tasks import picture_spec
from tests.services.tuner.scripted_trainer import ScriptedTrainer
from tests.services.tuner.specs import RUN_STUDY_SPEC

MIGRATIONS = Path(__file__).parents[3] / "services" / "tuner" / "migrations"
STUDY, TENANT = "studies/s", "lab"


class Tuner:
    """The parts of a tuner that run studies.

    Args:
        url: URL of the database.
        trainer: The trainer.
        owned: Closes everything.
    """

    def __init__(self, url: str, trainer: ScriptedTrainer, owned: ExitStack) -> None:
        database = owned.enter_context(closing(Database(url)))
        database.migrate(MIGRATIONS)
        self.trainer = trainer
        self.studies = StudyService(database, 8)
        self.jobs = JobStore(database)
        self.runner = JobRunner(self.jobs, {JOB_KIND: StudyHandler(self.studies, trainer)}, lease_s=2, num_threads=1)
        self.runner.start()
        owned.callback(self.runner.stop, 10)
        self.runs = StudyRunService(database, self.jobs, self.runner, self.studies, trainer)

    def create(self, **changes: Any) -> None:
        spec = StudySpec.from_json({**RUN_STUDY_SPEC, **changes})
        self.studies.create(TENANT, "s", spec, Repeatable("CreateStudy"))

    def start(
        self, *, run: dict[str, Any] | None = None, fields: list[dict[str, str]] | None = None, **budget: Any
    ) -> StudyRunView:
        """Calls RunStudy with runs of four epochs."""
        spec = {
            "run": {**picture_spec("datasets/d/versions/1"), "epochs": 4, **(run or {})},
            "fields": [{"parameter": "batch", "field": "batch_size"}] if fields is None else fields,
            "budget": budget,
        }
        view = self.runs.run(TENANT, STUDY, StudyRunSpec.from_json(spec)).run
        assert view is not None
        return view

    def run(self) -> StudyRunView:
        view = self.studies.get(TENANT, STUDY).run
        assert view is not None
        return view

    def trials(self) -> list[Trial]:
        return [view.trial for view in self.studies.trials(TENANT, STUDY, PageRequest(1000), state="")[0]]

    def ended(self) -> StudyRunView:
        """Waits until the job has ended."""
        wait_until(lambda: self.run().job.state.final, "the end of the job", timeout_s=30)
        return self.run()

    def train(self, run: str, *losses: float) -> None:
        """Lets a run succeed."""
        self.trainer.evaluate(run, *losses)
        self.trainer.finish(run)
