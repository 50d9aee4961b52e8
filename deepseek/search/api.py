"""Searches with any Python objective, in one process and without a mesh.

>>> from deepseek.search.api import FloatRange, search
>>> result = search(lambda trial: (trial["x"] - 2) ** 2, {"x": FloatRange(-10.0, 10.0)}, num_trials=30, seed=1)
>>> abs(result.best.parameters["x"] - 2) < 1
True

The tuner service makes the same suggestions for the same spec, and keeps studies after a crash.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.search.plots import plot_study
from deepseek.search.space import (
    Choices,
    Condition,
    Domain,
    FloatRange,
    IntegerRange,
    LinearConstraint,
    ParameterSpec,
    Space,
    Value,
)
from deepseek.search.study import Study
from deepseek.search.study_spec import MAX_SEED, Objective, OutcomeConstraint, StudySpec
from deepseek.search.trials import Outcome, Trial, TrialState
from deepseek.trainjob.spec_parts import Component

__all__ = [
    "Choices",
    "Condition",
    "FloatRange",
    "IntegerRange",
    "LinearConstraint",
    "Objective",
    "OutcomeConstraint",
    "ParameterSpec",
    "RunningTrial",
    "SearchResult",
    "Space",
    "StoppedEarly",
    "run_study",
    "search",
]


class StoppedEarly(Exception):
    """Raised in an objective when the pruner has decided that its trial should stop."""


class RunningTrial:
    """The trial that an objective evaluates. `trial["x"]` is the value of the parameter `x`.

    Attributes:
        number: Number of the trial, starting at 1.
        parameters: Values by name; parameters whose conditions do not hold are missing.
    """

    def __init__(self, search: "_Search", trial: Trial) -> None:
        self._search = search
        self.number = trial.number
        self.parameters = trial.parameters

    def __getitem__(self, name: str) -> Value:
        return self.parameters[name]

    def report(self, step: int, value: float | Mapping[str, float]) -> None:
        """Reports an intermediate value. The first value of a step is kept.

        Args:
            step: Position in the trial, e.g. the epoch; counts from 1.
            value: Value of the objective, or the values of metrics by name.

        Raises:
            StoppedEarly: The trial should stop. Let this exception leave the objective.
        """
        self._search.report(self.number, step, value)


Result = float | Mapping[str, float]
"""Value of the only objective, or values of metrics by name."""


@dataclass(frozen=True)
class SearchResult:
    """What a search has found.

    Attributes:
        trials: All trials, by number.
        optimal: The best feasible trials: those with the best value or, with several objectives, the Pareto front.
        spec: Spec of the study.
    """

    trials: Sequence[Trial]
    optimal: Sequence[Trial]
    spec: StudySpec

    @property
    def best(self) -> Trial:
        """The first of the best trials.

        Raises:
            FailedPrecondition: NO_RESULT if no trial has succeeded and satisfies the constraints.
        """
        if not self.optimal:
            message = "no trial has succeeded and satisfies the constraints"
            raise FailedPrecondition("NO_RESULT", message)
        return self.optimal[0]

    def plot(self, output: Path | str, *, kind: str = "", metrics: Sequence[str] = (), title: str = "") -> None:
        """Draws the search into a picture (.png, .svg or .pdf) or a page (.html).

        Args:
            output: File to write.
            kind: `pareto`, `parallel`, `importance` or `history`; by default `history` if one objective is drawn, else
                `pareto`.
            metrics: Objectives that are drawn; by default all of them.
            title: Title, without the kind.

        Raises:
            MeshError: Any error of `deepseek.search.plots.plot_study`.
        """
        plot_study(self.spec, self.trials, Path(output), kind=kind, metrics=metrics, title=title)


def search(
    objective: Callable[[RunningTrial], Result],
    space: Mapping[str, Domain] | Space,
    *,
    num_trials: int,
    maximize: bool = False,
    algorithm: str = "",
    pruner: str = "",
    seed: int = 0,
    num_workers: int = 1,
    timeout_s: float | None = None,
    catch: tuple[type[Exception], ...] = (),
) -> SearchResult:
    """Searches for the parameters with the smallest or greatest value of an objective.

    Args:
        objective: Function that evaluates a trial and returns its value. It may report intermediate values.
        space: Ranges and choices by name; or a `Space`, which can have conditions and constraints.
        num_trials: Number of trials.
        maximize: Whether the value should be large.
        algorithm: Name of the algorithm; default `tpe`. `run_study` takes parameters, too.
        pruner: Name of the pruner; default `none`.
        seed: Seed of the suggestions; 0 draws one.
        num_workers: Number of threads that evaluate trials.
        timeout_s: Seconds after which no further trial starts.
        catch: Exceptions of the objective that make a trial fail, and let the search continue.

    Raises:
        InvalidArgument: The space, a name or a number is invalid.
        Exception: An exception of the objective that is not in `catch`.
    """
    if not isinstance(space, Space):
        space = Space(tuple(ParameterSpec(name, domain) for name, domain in space.items()))
    spec = StudySpec(
        space,
        (Objective("value", maximize),),
        algorithm=Component(algorithm),
        pruner=Component(pruner),
        seed=seed,
        max_trials=num_trials,
    )
    if num_trials < 1:
        raise InvalidArgument("BAD_VALUE", f"num_trials is {num_trials}; it must be at least 1", field="num_trials")
    return run_study(objective, spec, num_workers=num_workers, timeout_s=timeout_s, catch=catch)


def run_study(
    objective: Callable[[RunningTrial], Result],
    spec: StudySpec,
    *,
    num_workers: int = 1,
    timeout_s: float | None = None,
    catch: tuple[type[Exception], ...] = (),
) -> SearchResult:
    """Runs all trials of a study that is described by a spec, as `search` does.

    Args:
        objective: Function that evaluates a trial. With several objectives or with constraints, it returns the values
            of the metrics by name.
        spec: Spec; `max_trials` is the number of trials.
        num_workers: Number of threads that evaluate trials.
        timeout_s: Seconds after which no further trial starts.
        catch: Exceptions of the objective that make a trial fail, and let the search continue.
    """
    spec.check()
    if num_workers < 1:
        raise InvalidArgument("BAD_VALUE", f"num_workers is {num_workers}; it must be at least 1", field="num_workers")
    running = _Search(objective, spec.with_defaults(random.randint(1, MAX_SEED)), timeout_s, catch)
    with ThreadPoolExecutor(num_workers) as pool:
        workers = [pool.submit(running.work, f"worker-{number}") for number in range(num_workers)]
        try:
            wait(workers, return_when=FIRST_EXCEPTION)
        finally:
            running.end()  # also after Ctrl-C: the workers finish only the trials that they have started
    for worker in workers:
        worker.result()
    return running.result()


class _Search:
    """A search that is under way. Thread-safe."""

    def __init__(
        self,
        objective: Callable[[RunningTrial], Result],
        spec: StudySpec,
        timeout_s: float | None,
        catch: tuple[type[Exception], ...],
    ) -> None:
        self._objective = objective
        self._spec = spec
        self._catch = catch
        self._study = Study("search", spec)
        self._lock = threading.Lock()
        self._ended = False
        # A monotonic clock, because the time of day may jump.
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s

    def work(self, client_id: str) -> None:
        """Evaluates trials until there are no more."""
        while not self._ended and (self._deadline is None or time.monotonic() < self._deadline):
            try:
                with self._lock:
                    (trial,), _ = self._study.suggest(client_id)
            except FailedPrecondition as error:
                if error.reason in ("STUDY_COMPLETE", "SPACE_EXHAUSTED"):
                    return
                raise
            self._evaluate(trial)

    def end(self) -> None:
        """Lets the workers end after their current trials."""
        self._ended = True

    def report(self, number: int, step: int, value: Result) -> None:
        """Adds a measurement; see `RunningTrial.report`."""
        with self._lock:
            self._study.measure(number, step, self._metrics(value))
            should_stop, _ = self._study.check_early_stopping(number)
        if should_stop:
            raise StoppedEarly

    def result(self) -> SearchResult:
        """Returns what has been found so far."""
        with self._lock:
            return SearchResult(list(self._study.trials.values()), self._study.optimal(), self._spec)

    def _evaluate(self, trial: Trial) -> None:
        try:
            value = self._objective(RunningTrial(self, trial))
        except StoppedEarly:
            self._complete(trial, Outcome(TrialState.STOPPED))
        except Exception as error:  # of the user's function; stored, and raised unless it is to be caught
            self._complete(trial, Outcome(TrialState.FAILED, reason="OBJECTIVE_RAISED", message=str(error)[:1000]))
            if not isinstance(error, self._catch):
                raise
        else:
            self._complete(trial, Outcome(TrialState.SUCCEEDED, self._metrics(value)))

    def _complete(self, trial: Trial, outcome: Outcome) -> None:
        with self._lock:
            self._study.complete(trial.number, outcome)

    def _metrics(self, value: Any) -> Mapping[str, float]:
        if isinstance(value, Mapping):
            return {name: float(one) for name, one in value.items()}
        names = self._spec.metrics()
        if len(names) != 1 or isinstance(value, bool | str) or value is None:
            message = f"the objective returned {str(value)[:80]!r}; return the values of {', '.join(names)} by name"
            raise InvalidArgument("BAD_VALUE", message)
        return {names[0]: float(value)}
