"""Handles requests about studies and trials."""

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import select

from common.database import MAX_PAGE_SIZE, Database, PageRequest, Repeatable, fetch_page, once
from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from common.names import check_id
from deepseek.search.study_spec import MAX_SEED, StudySpec
from deepseek.search.trials import MAX_SUGGESTIONS, Outcome, Trial, TrialState
from services.tuner import rows
from services.tuner.changes import Changes
from services.tuner.live import Change, LiveStudies
from services.tuner.resources import parse_study, parse_trial, study_name
from services.tuner.run_rows import check_not_run, read_run, read_runs
from services.tuner.study import Measurement, StudyRunView, StudyView, TrialView
from services.tuner.tables import MeasurementRow, StudyRow, TrialRow, new_study
from services.tuner.watching import watch_trials

if TYPE_CHECKING:
    from deepseek.search.study import Study

_ALL = PageRequest(MAX_PAGE_SIZE)
_SEEDS = random.SystemRandom()


class StudyService:
    """Creates and changes studies, and reads them. Thread-safe.

    Args:
        database: Migrated database.
        max_studies: Number of studies that are kept in memory.
        max_waiting: Number of calls that may wait at the same time for other calls of their studies.

    Attributes:
        live: The studies in memory.
    """

    def __init__(self, database: Database, max_studies: int, max_waiting: int = 16) -> None:
        self._database = database
        self._changes = Changes()
        self.live = LiveStudies(database, max_studies, max_waiting, self._changes.notify)

    def create(self, tenant: str, study_id: str, spec: StudySpec, call: Repeatable) -> StudyView:
        """Creates a study.

        Raises:
            InvalidArgument: The id or the spec is invalid.
            FailedPrecondition: MISSING_PACKAGE or COMPONENT_NOT_IMPORTABLE.
            AlreadyExists: STUDY_EXISTS or REQUEST_ID_REUSED.
        """
        check_id(study_id, field="study_id")
        spec.check()
        spec = spec.with_defaults(_SEEDS.randint(1, MAX_SEED))
        # Imported here, because it imports Optuna, which takes a second and is not needed to start.
        from deepseek.search.study import Study

        # Some mistakes, e.g. a space that does not suit the algorithm, show only at the first suggestion.
        Study(study_name(study_id), spec).suggest("check")
        with self._database.transaction() as session:

            def effect() -> str:
                if session.get(StudyRow, (tenant, study_id)) is not None:
                    message = f"studies/{study_id} exists; choose another id"
                    raise AlreadyExists("STUDY_EXISTS", message, field="study_id")
                session.add(new_study(tenant, study_id, spec))
                session.flush()
                return study_name(study_id)

            name = once(session, tenant, call, effect)
        return self.get(tenant, name)

    def get(self, tenant: str, name: str) -> StudyView:
        """Returns a study.

        Raises:
            NotFound: STUDY_NOT_FOUND.
            InvalidArgument: BAD_NAME.
        """
        study_id = parse_study(name)
        with self._database.snapshot() as session:
            study = rows.read_study(session, tenant, study_id)
            return replace(study, run=read_run(session, tenant, study_id))

    def list(self, tenant: str, page: PageRequest) -> tuple[Sequence[StudyView], str]:
        """Returns a page of studies, newest first, and the token of the next page."""
        query = select(StudyRow).where(StudyRow.tenant == tenant)
        with self._database.snapshot() as session:
            key = (StudyRow.create_us, StudyRow.study_id)
            found, token = fetch_page(session, query, key, page, scope="studies", descending=True)
            runs = read_runs(session, tenant, [row.study_id for row in found])
            return [replace(rows.study_of(row), run=runs.get(row.study_id)) for row in found], token

    def stop(self, tenant: str, name: str) -> StudyView:
        """Stops a study. Idempotent.

        Raises:
            NotFound: STUDY_NOT_FOUND.
        """

        def act(study: "Study") -> tuple[None, Change]:
            return None, Change() if study.stopped else Change(study.stop())

        self.live.change(tenant, parse_study(name), act)
        return self.get(tenant, name)

    def delete(self, tenant: str, name: str) -> None:
        """Deletes a study with its trials.

        Raises:
            NotFound: STUDY_NOT_FOUND.
            FailedPrecondition: STUDY_RUNNING.
        """
        study_id = parse_study(name)
        with self._database.transaction() as session:
            rows.read_progress(session, tenant, study_id)
            check_not_run(session, tenant, study_id)
            rows.delete_study(session, tenant, study_id)
        self.live.forget(tenant, study_id)
        self._changes.notify(tenant, study_id)

    def suggest(self, tenant: str, parent: str, client_id: str, num_trials: int) -> Sequence[TrialView]:
        """Returns the active trials of a worker and, if there are too few, new ones.

        Raises:
            NotFound: STUDY_NOT_FOUND.
            InvalidArgument: BAD_VALUE.
            FailedPrecondition: See `deepseek.search.study.Study.suggest`.
        """
        study_id = parse_study(parent, field="parent")

        def act(study: "Study") -> tuple[Sequence[TrialView] | FailedPrecondition, Change]:
            try:
                found, made = study.suggest(client_id, num_trials)
            except FailedPrecondition as error:
                if error.reason == "SPACE_EXHAUSTED":
                    return error, Change()  # the study stores that it is exhausted
                raise
            return [TrialView(study_id, trial) for trial in found], Change(made)

        result = self.live.change(tenant, study_id, act, field="parent")
        if isinstance(result, FailedPrecondition):
            raise result
        return result

    def trial(self, tenant: str, name: str, page: PageRequest = _ALL) -> tuple[TrialView, str]:
        """Returns a trial with a page of its measurements by step, and the token of the next page.

        Raises:
            NotFound: STUDY_NOT_FOUND or TRIAL_NOT_FOUND.
        """
        study_id, number = parse_trial(name)
        query = rows.measurements_of(tenant, study_id, number)
        with self._database.snapshot() as session:
            trial = rows.read_trial(session, tenant, study_id, number)
            found, token = fetch_page(session, query, (MeasurementRow.step,), page, scope=name)
            return TrialView(study_id, trial, tuple(map(rows.measurement_of, found))), token

    def trials(self, tenant: str, parent: str, page: PageRequest, *, state: str) -> tuple[Sequence[TrialView], str]:
        """Returns a page of trials by number, and the token of the next page.

        Raises:
            NotFound: STUDY_NOT_FOUND.
        """
        study_id = parse_study(parent, field="parent")
        query = rows.trials_of(tenant, study_id)
        if state:
            query = query.where(TrialRow.state == state)
        with self._database.snapshot() as session:
            rows.read_progress(session, tenant, study_id, field="parent")
            found, token = fetch_page(session, query, (TrialRow.number,), page, scope=f"{parent}/trials?{state}")
            return [TrialView(study_id, rows.trial_of(row)) for row in found], token

    def optimal(self, tenant: str, parent: str, page: PageRequest) -> tuple[Sequence[TrialView], str]:
        """Returns a page of the best trials by number, and the token of the next page.

        Raises:
            NotFound: STUDY_NOT_FOUND.
        """
        study_id = parse_study(parent, field="parent")

        def act(study: "Study") -> tuple[list[int], Change]:
            return [trial.number for trial in study.optimal()], Change()

        numbers = self.live.change(tenant, study_id, act, field="parent")
        query = rows.trials_of(tenant, study_id).where(TrialRow.number.in_(numbers))
        with self._database.snapshot() as session:
            found, token = fetch_page(session, query, (TrialRow.number,), page, scope=f"{parent}/optimal")
            return [TrialView(study_id, rows.trial_of(row)) for row in found], token

    def measure(
        self, tenant: str, name: str, measurement: Measurement, *, decide: bool = False
    ) -> tuple[TrialState, bool]:
        """Adds a measurement to a trial. Idempotent: a step that was measured before keeps its first measurement.

        Args:
            tenant: Tenant that owns the study.
            name: Name of the trial.
            measurement: The measurement.
            decide: Whether to decide then whether the trial should stop early.

        Returns:
            The trial's state, and whether this step was measured before.

        Raises:
            NotFound: STUDY_NOT_FOUND or TRIAL_NOT_FOUND.
            FailedPrecondition: PRUNER_FAILED; the measurement is stored.
            MeshError: See `deepseek.search.study.Study.measure`.
        """
        study_id, number = parse_trial(name)

        def act(study: "Study") -> tuple[tuple[TrialState, bool, FailedPrecondition | None], Change]:
            try:
                measured = study.measure(number, measurement.step, measurement.metrics)
            except FailedPrecondition:
                if self._was_measured(tenant, study_id, number, measurement):
                    return (study.trials[number].state, True, None), Change()
                raise
            failure, decided = None, None
            if decide:
                try:
                    _, decided = study.check_early_stopping(number)
                except FailedPrecondition as error:
                    failure = error
            changed = decided or measured
            result = (study.trials[number].state, measured is None, failure)
            if changed is None:
                return result, Change()
            return result, Change((changed,), measurement if measured else None, only_trials=True)

        state, was_measured, failure = self.live.change(tenant, study_id, act)
        if failure:
            raise failure
        return state, was_measured

    def check_early_stopping(self, tenant: str, name: str) -> bool:
        """Decides whether a trial should stop early.

        Raises:
            NotFound: STUDY_NOT_FOUND or TRIAL_NOT_FOUND.
            FailedPrecondition: PRUNER_FAILED.
        """
        study_id, number = parse_trial(name)

        def act(study: "Study") -> tuple[bool, Change]:
            should_stop, trial = study.check_early_stopping(number)
            return should_stop, Change((trial,) if trial else (), only_trials=True)

        return self.live.change(tenant, study_id, act)

    def stop_trial(self, tenant: str, name: str) -> TrialView:
        """Asks the worker of a trial to stop. Idempotent.

        Raises:
            NotFound: STUDY_NOT_FOUND or TRIAL_NOT_FOUND.
        """
        study_id, number = parse_trial(name)

        def act(study: "Study") -> tuple[TrialView, Change]:
            trial = study.stop_trial(number)
            return TrialView(study_id, trial or study.trials[number]), Change(
                (trial,) if trial else (), only_trials=True
            )

        return self.live.change(tenant, study_id, act)

    def complete(self, tenant: str, name: str, outcome: Outcome) -> TrialView:
        """Ends a trial. Idempotent.

        Raises:
            NotFound: STUDY_NOT_FOUND or TRIAL_NOT_FOUND.
            InvalidArgument: MISSING_METRIC or BAD_VALUE.
            FailedPrecondition: TRIAL_ENDED.
        """
        return self.complete_and_suggest(tenant, name, outcome, 0)[0]

    def complete_and_suggest(
        self, tenant: str, name: str, outcome: Outcome, num_next: int
    ) -> tuple[TrialView, Sequence[TrialView]]:
        """Ends a trial, and returns it and the next trials of the same worker. Idempotent.

        Args:
            tenant: Tenant that owns the study.
            name: Name of the trial.
            outcome: How the trial ended.
            num_next: Number of active trials that the worker wants to have then. Fewer are returned if the study
                suggests no more.

        Raises:
            MeshError: See `complete`; BAD_VALUE.
        """
        study_id, number = parse_trial(name)
        if not 0 <= num_next <= MAX_SUGGESTIONS:
            message = f"num_next is {num_next}; it must be from 0 to {MAX_SUGGESTIONS}"
            raise InvalidArgument("BAD_VALUE", message, field="num_next")

        def act(study: "Study") -> tuple[tuple[TrialView, Sequence[TrialView]], Change]:
            ended = study.complete(number, outcome)
            trial = study.trials[number]
            found: Sequence[Trial] = ()
            made: Sequence[Trial] = ()
            if num_next:
                # Whatever prevents a suggestion must not prevent the end of the trial.
                with suppress(FailedPrecondition):
                    found, made = study.suggest(trial.client_id, num_next)
            views = [TrialView(study_id, one) for one in found]
            return (TrialView(study_id, trial), views), Change((*([ended] if ended else ()), *made))

        return self.live.change(tenant, study_id, act)

    def watch(
        self, tenant: str, name: str, *, after: int, stop: threading.Event, stored_only: bool = False
    ) -> Iterator[TrialView | StudyRunView]:
        """Yields the trials that changed after a sequence number, then trials as they change.

        If RunStudy runs the study, also yields how far it is, first and whenever this changes. Ends when no trial is
        active and the study suggests no more, or the job of RunStudy has ended, or when `stop` is set.

        Raises:
            NotFound: STUDY_NOT_FOUND, also if the study is deleted meanwhile.
            InvalidArgument: BAD_VALUE for a negative sequence number.
        """
        return watch_trials(
            self._database, self._changes, tenant, parse_study(name), after=after, stop=stop, stored_only=stored_only
        )

    def forget(self) -> None:
        """Drops all studies from memory, after rows were imported."""
        self.live.forget_all()
        self.wake()

    def wake(self) -> None:
        """Makes all watches look for changes immediately."""
        self._changes.notify_all()

    def _was_measured(self, tenant: str, study_id: str, number: int, measurement: Measurement) -> bool:
        with self._database.snapshot() as session:
            stored = rows.read_metrics(session, tenant, study_id, number, measurement.step)
        return stored is not None and measurement.has(stored)
