"""Tables and JSON documents of studies and their trials."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import json_format
from rich.console import Group
from rich.table import Table
from rich.text import Text

from deepseek.terminal import visible
from protos.tuner.v1 import tuner_pb2 as pb

NO_BEST = "no trial has succeeded and satisfies the constraints"
COLUMNS = ("trial", "state", "step", "metrics", "parameters", "run")

_SHOWN_TRIALS = 30
"""Number of trials in the live table; a table that is longer than the terminal cannot be redrawn."""


class StudyTable:
    """The table of a study that is being evaluated: its newest trials, the best trial, and the spent budget.

    Args:
        study: The study.
    """

    def __init__(self, study: pb.Study) -> None:
        self._study = study
        self._trials: dict[str, pb.Trial] = {}
        self.run = study.run if study.HasField("run") else None

    @property
    def trials(self) -> list[pb.Trial]:
        """The trials so far, by number."""
        return sorted(self._trials.values(), key=number)

    def update(self, change: pb.WatchStudyResponse) -> str:
        """Applies a change; returns a line about it for output that cannot be redrawn, empty if it is not worth one."""
        if change.HasField("trial"):
            self._trials[change.trial.name] = change.trial
            return _line(change.trial)
        before, self.run = self.run, change.run
        if before and (before.state, _waits(before)) == (change.run.state, _waits(change.run)):
            return ""
        return self._spent()

    def render(self) -> Group:
        """Returns the table. May be called from another thread than `update`."""
        table = Table(*COLUMNS, box=None, header_style="bold", pad_edge=False)
        best = self.best()
        newest = sorted(self._trials.values(), key=lambda trial: trial.sequence)[-_SHOWN_TRIALS:]
        if best is not None and best not in newest:
            newest.append(best)
        for trial in sorted(newest, key=number):
            style = "bold green" if trial is best else ""
            table.add_row(*(Text(visible(cell), style=style) for cell in cells(trial)))
        return Group(table, Text(visible(self._spent()), style="dim"))

    def best(self) -> pb.Trial | None:
        """Returns the best trial so far; None before the first one, and with several objectives."""
        if len(self._study.spec.objectives) > 1:
            return None
        objective = self._study.spec.objectives[0]
        sign = 1 if objective.goal == pb.GOAL_MINIMIZE else -1
        values = {}
        for trial in list(self._trials.values()):
            metrics = {one.name: one.value for one in trial.metrics}
            value = metrics.get(objective.metric, math.nan)
            infeasible = trial.HasField("feasible") and not trial.feasible
            if trial.state == pb.TRIAL_STATE_SUCCEEDED and not infeasible and not math.isnan(value):
                values[trial.name] = sign * value
        return self._trials[min(values, key=values.__getitem__)] if values else None

    def _spent(self) -> str:
        best = self.best()
        text = f"best so far: trial {number(best)}" if best else ""
        if self.run is None:
            return text
        budget = self.run.spec.budget
        spent = [
            _share(self.run.num_trials, budget.max_trials, "trials"),
            _share(self.run.num_epochs, budget.max_epochs, "epochs"),
            _share(round(self.run.seconds), round(budget.max_seconds), "s"),
        ]
        state = run_state(self.run) + (f": {self.run.message}" if self.run.message else "")
        return "; ".join(part for part in (state, ", ".join(spent), text) if part)


def cells(trial: pb.Trial) -> list[str]:
    """Returns the cells of a trial, in the order of COLUMNS."""
    metrics = trial.metrics or trial.last_measurement.metrics
    figures = ", ".join(f"{one.name} {one.value:.6g}" for one in metrics)
    if trial.failure_reason:
        figures = f"{trial.failure_reason}: {trial.failure_message}"
    elif trial.HasField("feasible") and not trial.feasible:
        figures += " (violates a constraint)"
    return [
        str(number(trial)),
        pb.TrialState.Name(trial.state).removeprefix("TRIAL_STATE_").lower(),
        str(trial.last_measurement.step) if trial.HasField("last_measurement") else "",
        figures,
        _parameters(trial),
        trial.run.removeprefix("runs/"),
    ]


def study_document(study: pb.Study) -> dict[str, Any]:
    """Returns a study as JSON."""
    return {
        "study": study.name,
        "state": study_state(study),
        "num_trials": study.num_trials,
        "num_ended": study.num_ended,
        "algorithm": study.spec.algorithm.name,
        "pruner": study.spec.pruner.name,
        "objectives": [one.metric for one in study.spec.objectives],
        "create_time": study.create_time.ToJsonString(),
        "run": _run_document(study.run) if study.HasField("run") else None,
    }


def trial_document(trial: pb.Trial) -> dict[str, Any]:
    """Returns a trial as JSON."""
    return {
        "trial": trial.name,
        "state": pb.TrialState.Name(trial.state).removeprefix("TRIAL_STATE_"),
        "parameters": json_format.MessageToDict(trial.parameters),
        "metrics": {one.name: _finite(one.value) for one in trial.metrics},
        "last_step": trial.last_measurement.step if trial.HasField("last_measurement") else None,
        "last_metrics": {one.name: _finite(one.value) for one in trial.last_measurement.metrics},
        "feasible": trial.feasible if trial.HasField("feasible") else None,
        "failure_reason": trial.failure_reason,
        "failure_message": trial.failure_message,
        "client_id": trial.client_id,
        "run": trial.run,
        "exploits": [_exploit_document(one) for one in trial.exploits],
    }


def study_state(study: pb.Study) -> str:
    """Returns the state of a study as a word."""
    return pb.StudyState.Name(study.state).removeprefix("STUDY_STATE_").lower()


def run_state(run: pb.StudyRun) -> str:
    """Returns how far RunStudy is as a word."""
    return pb.StudyRunState.Name(run.state).removeprefix("STUDY_RUN_STATE_").lower()


def goals(study: pb.Study) -> str:
    """Returns the objectives of a study as a text."""
    words: Mapping[int, str] = {pb.GOAL_MINIMIZE: "minimize", pb.GOAL_MAXIMIZE: "maximize"}
    return ", ".join(f"{words[one.goal]} {one.metric}" for one in study.spec.objectives)


def rows(trials: Iterable[pb.Trial]) -> list[list[str]]:
    """Returns the cells of trials, in the order of COLUMNS."""
    return [cells(trial) for trial in trials]


def number(trial: pb.Trial) -> int:
    """Returns the number of a trial in its study."""
    return int(trial.name.rpartition("/")[2])


def _parameters(trial: pb.Trial) -> str:
    """Returns the parameters of a trial, with what population-based training has made of them."""
    applied = [one for one in trial.exploits if one.applied_step]
    now = {parameter.name: parameter.new for exploit in applied for parameter in exploit.parameters}
    texts = []
    for name, value in sorted(json_format.MessageToDict(trial.parameters).items()):
        change = f" -> {_value(now[name])}" if name in now else ""
        texts.append(f"{name} {_value(value)}{change}")
    if applied:
        source = applied[-1].source.rpartition("/")[2]
        texts.append(f"weights of trial {source} since epoch {applied[-1].epoch}")
    return ", ".join(texts)


def _exploit_document(exploit: pb.Exploit) -> dict[str, Any]:
    return {
        "epoch": exploit.epoch,
        "source": exploit.source,
        "source_step": exploit.source_step,
        "parameters": [{"name": one.name, "old": one.old, "new": one.new} for one in exploit.parameters],
        "applied_step": exploit.applied_step,
        "failure_reason": exploit.failure_reason,
        "failure_message": exploit.failure_message,
    }


def _run_document(run: pb.StudyRun) -> dict[str, Any]:
    return {
        "state": run_state(run),
        "end_reason": run.end_reason,
        "message": run.message,
        "num_trials": run.num_trials,
        "num_epochs": run.num_epochs,
        "seconds": run.seconds,
        "job": run.job.name,
    }


def _line(trial: pb.Trial) -> str:
    name, state, step, metrics, parameters, run = cells(trial)
    at = f" at step {step}" if step else ""
    where = f" (runs/{run})" if run else ""
    return f"trial {name} is {state}{at}{where}: {', '.join(part for part in (metrics, parameters) if part)}"


def _waits(run: pb.StudyRun) -> str:
    return run.message if run.message.startswith("waiting") else ""


def _share(spent: float, limit: float, unit: str) -> str:
    return f"{spent} of {limit} {unit}" if limit else f"{spent} {unit}"


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _finite(value: float) -> float | str:
    """Returns a number as JSON can hold it: NaN and infinities become text."""
    return value if math.isfinite(value) else str(value)
