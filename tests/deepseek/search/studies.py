"""Runs studies in tests, and recovers them from what would have been stored."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from deepseek.search.study import Study
from deepseek.search.study_spec import StudySpec
from deepseek.search.trials import Outcome, Trial, TrialState

Measurements = dict[int, dict[int, Mapping[str, float]]]


class RecordedStudy:
    """A study, with everything that must be stored to recover it."""

    def __init__(self, spec: StudySpec) -> None:
        self.spec = spec
        self.study = Study("studies/s", spec)
        self.measurements: Measurements = {}

    def suggest(self, client_id: str = "c", num_trials: int = 1) -> list[Trial]:
        """Suggests trials to a worker."""
        return self.study.suggest(client_id, num_trials)[0]

    def measure(self, number: int, step: int, **metrics: float) -> bool:
        """Adds a measurement; returns whether the trial should stop."""
        if self.study.measure(number, step, metrics) is not None:
            self.measurements.setdefault(number, {})[step] = metrics
        return self.study.check_early_stopping(number)[0]

    def succeed(self, number: int, **metrics: float) -> Trial | None:
        """Ends a trial with metrics."""
        return self.study.complete(number, Outcome(TrialState.SUCCEEDED, metrics))

    def recovered(self) -> "RecordedStudy":
        """The study as another process recovers it, from values that were written as JSON."""
        other = RecordedStudy(StudySpec.from_json(json.loads(self.spec.canonical())))
        other.catch_up(self)
        return other

    def catch_up(self, leader: "RecordedStudy") -> None:
        """Applies the changes that another object of the same study has made."""
        study, known = leader.study, self.study.sequence
        trials = [replace(one, **_read_back(one)) for one in study.trials.values() if one.sequence > known]
        measured = {
            trial.number: {step: one.get("loss") for step, one in leader.measurements.get(trial.number, {}).items()}
            for trial in trials
        }
        attributes = json.loads(json.dumps(study.attributes))
        self.study.catch_up(trials, measured, attributes, sequence=study.sequence, stopped=study.stopped)
        self.measurements = {number: dict(steps) for number, steps in leader.measurements.items()}


def _read_back(trial: Trial) -> dict[str, Any]:
    names = ("parameters", "metrics", "last_metrics", "attributes")
    return {name: json.loads(json.dumps(asdict(trial)[name])) for name in names}


def evaluate(study: RecordedStudy, trial: Trial, losses: Callable[[Mapping[str, Any]], tuple[float, ...]]) -> None:
    """Evaluates a trial: measures it twice, and ends it unless the pruner ends it."""
    values = losses(trial.parameters)
    for step in (1, 2):
        if study.measure(trial.number, step, loss=values[0] * (3 - step)):
            study.study.complete(trial.number, Outcome(TrialState.STOPPED))
            return
    names = [objective.metric for objective in study.spec.objectives]
    study.succeed(trial.number, **dict(zip(names, values, strict=True)))


def loss_of(parameters: Mapping[str, Any]) -> tuple[float, ...]:
    """A smooth function of all numbers among the parameters, and of their number."""
    numbers = [float(value) for value in parameters.values() if not isinstance(value, str)]
    return (sum(abs(number - 0.3) ** 0.5 for number in numbers) + len(parameters),)


def losses_of(parameters: Mapping[str, Any]) -> tuple[float, ...]:
    """Two functions that are not smallest at the same point."""
    numbers = [float(value) for value in parameters.values() if not isinstance(value, str)]
    return loss_of(parameters)[0], sum(abs(number - 0.9) for number in numbers)
