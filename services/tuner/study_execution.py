"""One attempt at running a study: it fills slots with trials, submits their runs, and reacts to what they report.

One thread decides everything, so decisions have an order. Each slot has one trial at a time, which is suggested under a
client id of the slot. Every step is idempotent, and everything that later steps need is in the database.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty
from threading import BoundedSemaphore
from typing import TypeVar

from common.errors import UNANSWERED, FailedPrecondition, Internal, InvalidArgument, MeshError, NotFound
from common.jobs import Lease, LeaseLost
from deepseek.search.population import PopulationSettings
from deepseek.search.trials import Outcome, Trial, TrialState
from services.tuner import run_slots
from services.tuner.codec import MAX_MESSAGE
from services.tuner.population import Population
from services.tuner.ports import Evaluation, Finished, Trainer, is_busy
from services.tuner.resources import trial_name
from services.tuner.run_budget import HARD_LIMITS, Spending
from services.tuner.run_rows import write_progress
from services.tuner.run_slots import CLIENT_PREFIX, REASONS, End, Pause, Slot, TrainerBusy, is_run, slot_index
from services.tuner.run_trials import current_trials, set_run
from services.tuner.run_watch import RunWatch
from services.tuner.studies import StudyService
from services.tuner.study import Measurement

_TICK_S = 0.5
_STORE_S = 1.0
"""Seconds after which the progress is stored again."""
_NO_MORE = ("STUDY_STOPPED", "STUDY_COMPLETE", "SPACE_EXHAUSTED")
T = TypeVar("T")


class StudyExecution:
    """Runs a study. Not thread-safe.

    Args:
        lease: Lease on the job.
        name: Name of the study.
        studies: Service that suggests trials and stores what is measured.
        trainer: Trainer that executes the runs.
        turns: See `RunWatch`.
    """

    def __init__(
        self, lease: Lease, name: str, studies: StudyService, trainer: Trainer, turns: BoundedSemaphore
    ) -> None:
        self._lease = lease
        self._tenant = lease.job.tenant
        self._name = name
        self._studies = studies
        self._trainer = trainer
        self._view = studies.get(self._tenant, name)
        assert self._view.run is not None, "RunStudy has stored it with the job"
        self._start_sequence = self._view.run.start_sequence
        self._spec = self._view.run.spec
        self._objective = self._view.spec.objectives[0].metric
        self._settings = PopulationSettings.of(self._view.spec.algorithm)
        self._population = self._settings and Population(self._tenant, self._view, self._settings, studies, trainer)
        self._budget = self._spec.budget.of_population(self._settings)
        self._spending = Spending(self._budget, self._view.run.seconds)
        self._watch = RunWatch(trainer, self._tenant, turns)
        self._slots: dict[int, Slot] = {}
        self._num_ended = 0
        self._no_more = ""
        self._error: MeshError | None = None
        self._waits_for = ""
        self._following, self._submitting = Pause(), Pause()
        self._store_at_s = 0.0

    def close(self) -> None:
        """Stops following the runs, which continue."""
        self._watch.close()
        if self._population:
            self._population.close()

    def run(self) -> End | None:
        """Runs the study until its end; returns None if this process shuts down before.

        Raises:
            LeaseLost: Another tuner has the job.
            NotFound: STUDY_NOT_FOUND.
            Unavailable: The database does not respond.
        """
        try:
            return self._run()
        except (NotFound, *UNANSWERED):  # the study was deleted, or the database does not respond
            raise
        except MeshError as error:  # e.g. the trainer refuses to stop a run
            return End(error.reason, error.message, self._spending.seconds, error)

    def _run(self) -> End | None:
        trials = self._look()
        for trial in trials:
            if not trial.state.ended and slot_index(trial) is not None:
                self._begin(trial, is_new=False)
        self._spending.num_epochs = sum(trial.last_step or 0 for trial in trials if trial.run)
        if self._population:
            self._population.recover(trials)
        while True:
            if self._lease.lost.is_set():
                raise LeaseLost(f"{self._lease.job.name} is held by another tuner")
            if self._lease.cancelled.is_set() and self._no_more != "STUDY_STOPPED":
                self._studies.stop(self._tenant, self._name)
            self._look()
            reason = self._limit()
            if reason in HARD_LIMITS:
                for slot in self._slots.values():
                    slot.should_stop |= slot.epoch < slot.spec.epochs
            if not reason:
                self._fill()
            self._act()
            self._store()
            if not self._slots and (reason := self._limit()):
                return self._end(reason)
            if self._lease.stopping.is_set():
                self._store(now=True)
                return None
            self._receive()

    def _limit(self) -> str:
        """Returns why no new trial begins; empty if one may."""
        if self._error is not None:
            return self._error.reason
        return self._no_more or self._spending.limit()

    def _look(self) -> Sequence[Trial]:
        """Reads what others have changed: that the study was stopped, or that a trial should stop or has ended."""
        is_stopped, trials = current_trials(self._studies.live, self._tenant, self._name)
        if is_stopped:
            self._no_more = "STUDY_STOPPED"
        for slot in self._slots.values():
            slot.should_stop |= trials[slot.number - 1].state != TrialState.ACTIVE
        ours = [trial for trial in trials if is_run(trial)]
        self._spending.num_trials = len(ours)
        self._num_ended = sum(trial.state.ended for trial in ours)
        return trials

    def _fill(self) -> None:
        """Suggests a trial to every free slot, as far as the budget allows."""
        taken = {slot.index for slot in self._slots.values()}
        for index in range(self._budget.max_parallel or 1):
            if index in taken or self._limit():
                continue
            try:
                client_id = f"{CLIENT_PREFIX}{index}"
                (view,) = self._studies.suggest(self._tenant, self._name, client_id, 1)
            except FailedPrecondition as error:
                if error.reason in _NO_MORE:
                    self._no_more = error.reason
                else:
                    self._error = error
                return
            self._spending.num_trials += 1
            self._begin(view.trial, is_new=True)

    def _begin(self, trial: Trial, *, is_new: bool) -> None:
        index = slot_index(trial)
        assert index is not None, "the job has suggested the trial to itself"
        slot = Slot(
            index,
            trial_name(self._view.study_id, trial.number),
            trial.number,
            self._spec.run_of(trial.parameters),
            trial.run,
            trial.last_step or 0,
            is_new,
        )
        self._slots[trial.number] = slot
        if slot.run:
            self._watch.start(slot.number, slot.run)

    def _act(self) -> None:
        """Stops runs, completes trials whose runs have ended, and submits runs.

        A trainer that has no room for another run must not keep the runs that it has from being stopped.
        """
        for slot in [slot for slot in self._slots.values() if slot.should_stop and slot.is_new]:
            self._complete(slot, Outcome(TrialState.STOPPED))
        slots = list(self._slots.values())
        for pause, act, due in (
            (self._following, self._follow_up, [slot for slot in slots if slot.run]),
            (self._submitting, self._submit, [slot for slot in slots if not slot.run]),
        ):
            if due and not pause.is_over:
                continue
            try:
                for slot in due:
                    act(slot)
            except TrainerBusy as error:
                pause.extend(f"waiting for the trainer: {error}")
            else:
                pause.clear()

    def _follow_up(self, slot: Slot) -> None:
        """Stops a run that must be stopped, and completes a trial whose run has ended."""
        if slot.should_stop and not slot.was_stopped:
            try:
                self._ask(lambda: self._trainer.stop(self._tenant, slot.run), repeated=Internal)
            except NotFound:
                slot.has_ended = True
            slot.was_stopped = True
        if slot.has_ended:
            self._complete_run(slot)

    def _submit(self, slot: Slot) -> None:
        """Submits the run of a trial. If the trainer refuses the run for good, the trial fails."""
        request_id = f"{self._view.uid}-{slot.number}"
        try:
            run = self._ask(lambda: self._trainer.submit(self._tenant, slot.spec, request_id=request_id))
        except TrainerBusy as error:
            slot.is_new &= error.was_answered
            raise
        except MeshError as error:
            self._fail(slot, error.reason, error.message)
            return
        slot.is_new = False
        tags = {"study": self._view.study_id, "trial": str(slot.number)}
        label = f"{self._view.study_id}/{slot.number}"
        with suppress(NotFound, Internal):  # e.g. somebody has deleted the run already
            self._ask(lambda: self._trainer.label(self._tenant, run, name=label, tags=tags))
        set_run(self._studies.live, self._tenant, slot.trial, run)
        slot.run = run
        self._watch.start(slot.number, run)

    def _ask(self, call: Callable[[], T], *, repeated: tuple[type[MeshError], ...] | type[MeshError] = ()) -> T:
        """Calls the trainer.

        Args:
            call: The call.
            repeated: Other errors after which the call should be repeated: a run must not be left behind.

        Raises:
            TrainerBusy: The call should be repeated later.
            MeshError: The trainer has refused the call.
        """
        try:
            answer = call()
        except MeshError as error:
            if not is_busy(error) and not isinstance(error, repeated):
                raise
            raise TrainerBusy(error) from error
        self._waits_for = ""
        return answer

    def _receive(self) -> None:
        """Waits for the next event of a run, and handles all events that have arrived."""
        timeout_s = _TICK_S
        while True:
            try:
                number, event = self._watch.events.get(timeout=timeout_s)
            except Empty:
                return
            timeout_s = 0
            slot = self._slots.get(number)
            if slot is None:
                continue
            if isinstance(event, Evaluation):
                self._waits_for = ""
                self._measure(slot, event)
            elif isinstance(event, MeshError):
                self._waits_for = f"waiting for the trainer: {event.message}"
            else:
                slot.has_ended = True

    def _measure(self, slot: Slot, evaluation: Evaluation) -> None:
        if evaluation.epoch <= slot.epoch:
            return  # e.g. repeated by a run that resumed from a checkpoint
        metrics = self._spec.value_of(self._objective, evaluation.metrics)
        try:
            measurement, decide = Measurement(evaluation.epoch, metrics), evaluation.epoch < slot.spec.epochs
            state, _ = self._studies.measure(self._tenant, slot.trial, measurement, decide=decide)
            slot.should_stop |= state != TrialState.ACTIVE
            if self._population and not slot.should_stop:
                value = metrics.get(self._objective, math.nan)
                self._population.measured(slot.number, evaluation.epoch, value, slot.spec.epochs)
        except UNANSWERED:
            raise
        except MeshError as error:
            if error.reason != "TRIAL_ENDED":  # e.g. somebody has completed it; PRUNER_FAILED ends the job
                self._error = self._error or error
            slot.should_stop = True
        self._spending.num_epochs += evaluation.epoch - slot.epoch
        slot.epoch = evaluation.epoch

    def _complete_run(self, slot: Slot) -> None:
        """Ends a trial whose run has sent its last event."""
        try:
            end = self._ask(lambda: self._trainer.find_end(self._tenant, slot.run), repeated=Internal)
        except NotFound as error:
            end = Finished("FAILED", reason=error.reason, message=error.message)
        if end.state is None:
            slot.has_ended = False
            self._watch.start(slot.number, slot.run)
        elif end.state == "CANCELLED":
            self._complete(slot, Outcome(TrialState.STOPPED))
        elif end.state == "FAILED":
            self._fail(slot, end.reason, end.message)
        elif not slot.epoch:
            message = "the run was never evaluated; set eval_split to a split of the data set version, or eval_share"
            self._fail(slot, "NO_EVALUATION", message)
        else:
            metrics = self._spec.value_of(self._objective, end.metrics)
            self._complete(slot, Outcome(TrialState.SUCCEEDED, metrics))

    def _fail(self, slot: Slot, reason: str, message: str) -> None:
        self._complete(slot, Outcome(TrialState.FAILED, reason=reason or "RUN_FAILED", message=message[:MAX_MESSAGE]))
        self._error = self._error or run_slots.too_many_failures(self._look(), since=self._start_sequence)

    def _complete(self, slot: Slot, outcome: Outcome) -> None:
        try:
            self._studies.complete(self._tenant, slot.trial, outcome)
        except FailedPrecondition as error:
            if error.reason != "TRIAL_ENDED":  # somebody else has ended it
                raise
        except InvalidArgument as error:
            failed = Outcome(TrialState.FAILED, reason=error.reason, message=error.message[:MAX_MESSAGE])
            self._studies.complete(self._tenant, slot.trial, failed)
        del self._slots[slot.number]
        self._num_ended += 1

    def _store(self, *, now: bool = False) -> None:
        """Stores the progress, at most once per second."""
        if not now and time.monotonic() < self._store_at_s:
            return
        self._store_at_s = time.monotonic() + _STORE_S
        active = f"trials: {len(self._slots)} active, {self._num_ended} ended"
        progress = self._spending.progress(self._num_ended, self._view.spec.max_trials)
        with self._lease.transaction() as session:
            write_progress(session, self._tenant, self._view.study_id, seconds=self._spending.seconds)
        waits_for = self._submitting.reason or self._following.reason or self._waits_for
        self._lease.update(progress=progress, message=waits_for or active)
        self._studies.wake()

    def _end(self, reason: str) -> End:
        if self._error is None and reason != "STUDY_STOPPED":
            self._error = run_slots.too_many_failures(self._look(), since=self._start_sequence, is_end=True)
            reason = self._error.reason if self._error else reason
        message = f"trials: {self._num_ended} ended; {REASONS.get(reason, reason)}"
        return End(reason, message, self._spending.seconds, self._error)
