"""One study in memory: its trials, which worker has which, and what may happen to them.

Every change gets the next sequence number of the study, so the order of changes does not depend on a clock. Methods
return the trials that they changed, for the caller to store. If storing fails, the object must not be used any more.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from common.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from deepseek.search.engine import Engine
from deepseek.search.space import check_name
from deepseek.search.study_spec import DEFAULT_PRUNER, StudySpec
from deepseek.search.trials import EXHAUSTED, MAX_SUGGESTIONS, Outcome, Trial, TrialState, is_exhausted

MAX_CLIENT_ID = 200
MAX_METRICS = 100
MAX_MEASUREMENTS = 10_000
"""Maximum number of measurements per trial."""
MAX_STUDY_MEASUREMENTS = 1_000_000
MAX_STEP = (1 << 63) - 1


class Study:
    """One study. Not thread-safe.

    Args:
        name: Name of the study.
        spec: Valid spec, with defaults filled in.

    Attributes:
        trials: All trials by number, in ascending order.
        sequence: Number of changes.
        stopped: Whether no new trials are suggested.
        exhausted: Whether the algorithm had nothing left to suggest when it was asked last.

    Raises:
        MeshError: See `Engine`.
    """

    def __init__(self, name: str, spec: StudySpec) -> None:
        self._spec = spec
        self._engine = Engine(name, spec)
        self._active: dict[str, list[int]] = {}
        self._steps: dict[int, set[int]] = {}
        self._num_measurements = 0
        self.trials: dict[int, Trial] = {}
        self.sequence = 0
        self.stopped = False
        self.exhausted = False

    def catch_up(
        self,
        trials: Sequence[Trial],
        measurements: Mapping[int, Mapping[int, float | None]],
        attributes: Mapping[str, Any],
        *,
        sequence: int,
        stopped: bool,
    ) -> None:
        """Applies the changes that were stored after `sequence`, which in a new object are all changes.

        Args:
            trials: Trials that have changed, by number.
            measurements: For each number of these trials, the value of the first objective by step; None for a
                measurement without this metric. Measurements that are known may be missing.
            attributes: Stored value of `attributes`.
            sequence: Stored value of `sequence`.
            stopped: Stored value of `stopped`.
        """
        self.exhausted = is_exhausted(attributes)
        own = {key: value for key, value in attributes.items() if key != EXHAUSTED}
        added = {
            number: {step: value for step, value in steps.items() if step not in self._steps.get(number, ())}
            for number, steps in measurements.items()
        }
        measured = {
            number: {step: value for step, value in steps.items() if value is not None}
            for number, steps in added.items()
        }
        self._engine.apply(trials, measured if len(self._spec.objectives) == 1 else {}, own)
        for trial in trials:
            is_new = trial.number not in self.trials
            self.trials[trial.number] = trial
            steps = added.get(trial.number, {})
            self._num_measurements += len(steps)
            if not trial.state.ended:
                self._steps.setdefault(trial.number, set()).update(steps)
                if is_new:
                    self._active.setdefault(trial.client_id, []).append(trial.number)
            elif not is_new:
                self._forget_active(trial)
        self.sequence, self.stopped = sequence, stopped

    @property
    def attributes(self) -> dict[str, Any]:
        """What the algorithm has stored with the study, and whether it has nothing left to suggest; JSON values."""
        own = self._engine.study_attributes
        return {**own, EXHAUSTED: True} if self.exhausted else own

    def suggest(self, client_id: str, num_trials: int = 1) -> tuple[list[Trial], list[Trial]]:
        """Returns the active trials of a worker, and suggests new ones if there are too few.

        Args:
            client_id: Id of the worker.
            num_trials: Number of active trials that the worker wants to have; 0 means 1.

        Returns:
            The trials, by number, and those of them that are new.

        Raises:
            InvalidArgument: BAD_VALUE.
            FailedPrecondition: STUDY_STOPPED, STUDY_COMPLETE, SPACE_EXHAUSTED, NO_FEASIBLE_SUGGESTION or
                ALGORITHM_FAILED, if there is no trial to return.
        """
        if not (0 < len(client_id) <= MAX_CLIENT_ID and client_id.isascii() and client_id.isprintable()):
            message = f"a client id has from 1 to {MAX_CLIENT_ID} printable ASCII characters"
            raise InvalidArgument("BAD_VALUE", message, field="client_id")
        if not 0 <= num_trials <= MAX_SUGGESTIONS:
            message = f"num_trials is {num_trials}; it must be from 0 to {MAX_SUGGESTIONS}"
            raise InvalidArgument("BAD_VALUE", message, field="num_trials")
        wanted = num_trials or 1
        found = [self.trials[number] for number in self._active.get(client_id, ())][:wanted]
        made: list[Trial] = []
        while len(found) < wanted:
            try:
                self._check_open()
                trial = self._start(client_id)
            except FailedPrecondition as error:
                if error.reason == "SPACE_EXHAUSTED" and not self.exhausted:
                    self.exhausted = True
                    self.sequence += 1
                if found:
                    break
                raise
            found.append(trial)
            made.append(trial)
        return found, made

    def measure(self, number: int, step: int, metrics: Mapping[str, float]) -> Trial | None:
        """Adds a measurement to an active trial. The first measurement of a step is kept, as by Optuna.

        Returns:
            The trial; None if this step was measured before.

        Raises:
            NotFound: TRIAL_NOT_FOUND.
            InvalidArgument: BAD_VALUE or MISSING_FIELD.
            FailedPrecondition: TRIAL_ENDED.
            ResourceExhausted: TOO_MANY_MEASUREMENTS.
        """
        trial = self._trial(number)
        check_metrics(metrics, "measurement.metrics")
        if not 0 <= step <= MAX_STEP:
            message = f"step is {step}; it must not be negative"
            raise InvalidArgument("BAD_VALUE", message, field="measurement.step")
        if trial.state.ended:
            message = f"trial {number} has {trial.state}; it takes no more measurements"
            raise FailedPrecondition("TRIAL_ENDED", message, field="name")
        steps = self._steps[number]
        if step in steps:
            return None
        if len(steps) >= MAX_MEASUREMENTS or self._num_measurements >= MAX_STUDY_MEASUREMENTS:
            message = f"a trial has at most {MAX_MEASUREMENTS} measurements, a study {MAX_STUDY_MEASUREMENTS}"
            raise ResourceExhausted("TOO_MANY_MEASUREMENTS", message)
        metric = self._spec.objectives[0].metric
        if metric in metrics:
            self._engine.measure(number - 1, step, metrics[metric])
        steps.add(step)
        self._num_measurements += 1
        if trial.last_step is None or step > trial.last_step:
            trial = replace(trial, last_step=step, last_metrics=dict(metrics))
        return self._changed(trial)

    def check_early_stopping(self, number: int) -> tuple[bool, Trial | None]:
        """Decides whether a trial should stop; returns the decision, and the trial if it has changed.

        Raises:
            NotFound: TRIAL_NOT_FOUND.
            FailedPrecondition: PRUNER_FAILED.
        """
        trial = self._trial(number)
        if trial.state != TrialState.ACTIVE:
            return trial.state != TrialState.SUCCEEDED, None
        if self._spec.pruner.name == DEFAULT_PRUNER or len(self._spec.objectives) > 1:
            return False, None
        should_stop = self._engine.should_stop(number - 1)
        attributes = self._engine.attributes(number - 1)
        state = TrialState.STOPPING if should_stop else TrialState.ACTIVE
        if state == trial.state and attributes == trial.attributes:
            return False, None
        return should_stop, self._changed(replace(trial, state=state, attributes=attributes))

    def stop_trial(self, number: int) -> Trial | None:
        """Asks the worker of a trial to stop; returns the trial if it has changed.

        Raises:
            NotFound: TRIAL_NOT_FOUND.
        """
        trial = self._trial(number)
        return self._changed(replace(trial, state=TrialState.STOPPING)) if trial.state == TrialState.ACTIVE else None

    def change(self, number: int, act: Callable[[Trial], Trial]) -> Trial | None:
        """Changes what is stored with a trial about its run; returns the trial if it has changed.

        Raises:
            NotFound: TRIAL_NOT_FOUND.
        """
        trial = self._trial(number)
        changed = act(trial)
        return None if changed == trial else self._changed(changed)

    def complete(self, number: int, outcome: Outcome) -> Trial | None:
        """Ends a trial; returns the trial, or None if it has ended with the same outcome before.

        Raises:
            NotFound: TRIAL_NOT_FOUND.
            InvalidArgument: MISSING_METRIC, BAD_VALUE or MISSING_FIELD.
            FailedPrecondition: TRIAL_ENDED.
        """
        trial = self._trial(number)
        metrics = dict(outcome.metrics)
        if outcome.state == TrialState.SUCCEEDED:
            check_metrics(metrics, "final.metrics", allow_none=True)
            for metric in self._spec.metrics():
                if metric not in metrics and metric not in trial.last_metrics:
                    message = f"the final metrics lack {metric!r}, and the last measurement has no value for it"
                    raise InvalidArgument("MISSING_METRIC", message, field="final.metrics")
                metrics.setdefault(metric, trial.last_metrics.get(metric, 0.0))
        ended = self._ended(trial, outcome, metrics)
        if trial.state.ended:
            if _same_outcome(trial, ended):
                return None
            message = f"trial {number} has {trial.state} before, with another outcome"
            raise FailedPrecondition("TRIAL_ENDED", message, field="name")
        known = metrics if ended.state == TrialState.SUCCEEDED else trial.last_metrics
        excess = {
            one.metric: one.excess(known[one.metric]) for one in self._spec.outcome_constraints if one.metric in known
        }
        values = [metrics[one.metric] for one in self._spec.objectives] if ended.state == TrialState.SUCCEEDED else []
        self._engine.end(number - 1, ended.state, values, excess)
        self._forget_active(trial)
        return self._changed(
            replace(
                ended,
                feasible=all(value <= 0 for value in excess.values()) if values else None,
                end_us=_now_us(),
                end_sequence=self.sequence + 1,
                attributes=self._engine.attributes(number - 1),
            )
        )

    def stop(self) -> list[Trial]:
        """Stops the study; returns the trials that have changed."""
        self.stopped = True
        self.sequence += 1
        active = [trial.number for trial in self.trials.values() if trial.state == TrialState.ACTIVE]
        return [trial for trial in map(self.stop_trial, active) if trial is not None]

    def optimal(self) -> list[Trial]:
        """Returns the best feasible trials by number: with several objectives, the Pareto front."""
        return [self.trials[number + 1] for number in self._engine.optimal()]

    def _check_open(self) -> None:
        if self.stopped:
            raise FailedPrecondition("STUDY_STOPPED", "the study was stopped; it suggests no more trials")
        if len(self.trials) >= self._spec.max_trials:
            message = f"all {self._spec.max_trials} trials of the study have been suggested"
            raise FailedPrecondition("STUDY_COMPLETE", message)

    def _start(self, client_id: str) -> Trial:
        point, attributes = self._engine.suggest()
        self.exhausted = False
        number, sequence = len(self.trials) + 1, self.sequence + 1
        trial = Trial(number, dict(point), client_id, _now_us(), sequence, sequence, attributes=attributes)
        self._active.setdefault(client_id, []).append(number)
        self._steps[number] = set()
        return self._changed(trial)

    def _ended(self, trial: Trial, outcome: Outcome, metrics: Mapping[str, float]) -> Trial:
        """Returns a trial with an outcome. A value that cannot be compared makes a trial fail."""
        ended = replace(
            trial,
            state=outcome.state,
            metrics=dict(metrics),
            failure_reason=outcome.reason,
            failure_message=outcome.message,
        )
        if outcome.state != TrialState.SUCCEEDED:
            return ended
        for objective in self._spec.objectives:
            if not objective.is_usable(value := metrics[objective.metric]):
                message = f"the objective {objective.metric!r} is {value}; only finite values can be compared"
                return replace(ended, state=TrialState.FAILED, failure_reason="NOT_FINITE", failure_message=message)
        return ended

    def _forget_active(self, trial: Trial) -> None:
        self._active[trial.client_id].remove(trial.number)
        del self._steps[trial.number]

    def _trial(self, number: int) -> Trial:
        trial = self.trials.get(number)
        if trial is None:
            raise NotFound(
                "TRIAL_NOT_FOUND", f"there is no trial {number}; ListTrials returns the trials", field="name"
            )
        return trial

    def _changed(self, trial: Trial) -> Trial:
        self.sequence += 1
        trial = replace(trial, sequence=self.sequence)
        self.trials[trial.number] = trial
        return trial


def check_metrics(metrics: Mapping[str, float], field: str, *, allow_none: bool = False) -> None:
    """Checks the names of metrics and how many there are.

    Raises:
        InvalidArgument: MISSING_FIELD or BAD_VALUE at `field`.
    """
    if not metrics and not allow_none:
        raise InvalidArgument("MISSING_FIELD", "there is no metric; report at least one", field=field)
    if len(metrics) > MAX_METRICS:
        message = f"there are {len(metrics)} metrics; at most {MAX_METRICS} are accepted"
        raise InvalidArgument("BAD_VALUE", message, field=field)
    for name in metrics:
        check_name(name, field)


def _same_outcome(one: Trial, other: Trial) -> bool:
    """Returns whether two trials ended in the same way. NaN equals NaN."""

    def outcome(trial: Trial) -> str:
        return json.dumps(
            [trial.state, dict(trial.metrics), trial.failure_reason, trial.failure_message], sort_keys=True
        )

    return outcome(one) == outcome(other)


def _now_us() -> int:
    return time.time_ns() // 1000
