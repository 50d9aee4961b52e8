"""A trainer whose runs a test advances, for moments that a real trainer reaches too rarely or too slowly."""

import itertools
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from common.errors import Cancelled, FailedPrecondition, MeshError, NotFound, Unavailable
from deepseek.trainjob.runspec import RunSpec
from services.tuner.ports import Action, Evaluation, Finished


@dataclass
class ScriptedRun:
    """A run: its spec, its evaluations, and how it ended."""

    spec: RunSpec
    evaluations: list[Evaluation] = field(default_factory=list)
    end: Finished = field(default_factory=lambda: Finished(None))


class ScriptedTrainer:
    """Implements `ports.Trainer`.

    Attributes:
        runs: The runs by name, in the order in which they were submitted.
        num_submissions: Number of calls of `submit` that were answered.
        refusal: Error with which every call fails.
        actions: What was changed, by the run and the id of the directive.
        num_streams: Number of streams that wait for events.
        most_streams: Greatest number of such streams so far.
        num_steered: Number of calls of `steer` that took effect.
        lost_answers: Number of calls of `steer` whose answers will be lost.
    """

    def __init__(self) -> None:
        self.runs: dict[str, ScriptedRun] = {}
        self.labels: dict[str, str] = {}
        self.num_submissions = 0
        self.actions: dict[tuple[str, str], Action] = {}
        self.num_steered = 0
        self.num_streams = 0
        self.most_streams = 0
        self.lost_answers = 0
        self.refusal: MeshError | None = None
        self.changed = threading.Condition()
        self._by_request: dict[str, str] = {}
        self._numbers = itertools.count(1)

    def check(self, tenant: str, spec: RunSpec, *, path: str) -> RunSpec:
        self._answer()
        return spec

    def submit(self, tenant: str, spec: RunSpec, *, request_id: str) -> str:
        with self.changed:
            self._answer()
            self.num_submissions += 1
            if request_id not in self._by_request:
                name = self._by_request[request_id] = f"runs/r{next(self._numbers)}"
                self.runs[name] = ScriptedRun(spec)
            assert self.runs[self._by_request[request_id]].spec == spec
            self.changed.notify_all()
            return self._by_request[request_id]

    def label(self, tenant: str, run: str, *, name: str, tags: Mapping[str, str]) -> None:
        self._answer()
        self.labels[run] = name

    def stop(self, tenant: str, run: str) -> None:
        self._answer()
        if self._find(run).end.state is None:
            self.finish(run, Finished("CANCELLED"))

    def checkpoint(self, tenant: str, run: str, *, directive_id: str) -> int:
        self._answer()
        return 10 * len(self._find(run).evaluations)

    def steer(self, tenant: str, run: str, actions: Mapping[str, Action]) -> int:
        """Every directive takes effect once, and is refused if it differs when it is sent again."""
        self._answer()
        if self._find(run).end.state is not None:
            raise FailedPrecondition("RUN_ENDED", f"{run} has ended")
        self.num_steered += 1
        for name, action in actions.items():
            assert self.actions.setdefault((run, name), action) == action
        if self.lost_answers:
            self.lost_answers -= 1
            raise Unavailable("UNREACHABLE", "the answer was lost")
        return 10 * len(self._find(run).evaluations) + 1

    def find_end(self, tenant: str, run: str) -> Finished:
        self._answer()
        return self._find(run).end

    def evaluations(self, tenant: str, run: str, *, after: int, wait: bool) -> "_Evaluations":
        return _Evaluations(self, run, after, wait)

    def wait_for_runs(self, count: int) -> list[str]:
        """Waits until so many runs were submitted, and returns their names."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.runs) >= count, 30), "the job submits no run"
            return list(self.runs)

    def evaluate(self, run: str, *losses: float) -> None:
        """Adds an epoch per loss to a run."""
        with self.changed:
            evaluations = self.runs[run].evaluations
            for loss in losses:
                evaluations.append(Evaluation(len(evaluations) + 1, {"loss": loss, "accuracy": 1 - loss}))
            self.changed.notify_all()

    def finish(self, run: str, end: Finished | None = None) -> None:
        """Ends a run, by default with success and the metrics of its last epoch."""
        with self.changed:
            found = self.runs[run]
            found.end = end or Finished("SUCCEEDED", found.evaluations[-1].metrics)
            self.changed.notify_all()

    def _find(self, run: str) -> ScriptedRun:
        if run not in self.runs:
            raise NotFound("RUN_NOT_FOUND", f"{run} does not exist", field="name")
        return self.runs[run]

    def _answer(self) -> None:
        if self.refusal is not None:
            raise self.refusal


class _Evaluations:
    def __init__(self, trainer: ScriptedTrainer, run: str, after: int, wait: bool) -> None:
        self._trainer = trainer
        self._run = run
        self._after = after
        self._wait = wait
        self._cancelled = False

    def __iter__(self) -> Iterator[tuple[int, Evaluation | None]]:
        trainer = self._trainer
        with trainer.changed:
            trainer.num_streams += self._wait
            trainer.most_streams = max(trainer.most_streams, trainer.num_streams)
        try:
            yield from self._events()
        finally:
            with trainer.changed:
                trainer.num_streams -= self._wait

    def _events(self) -> Iterator[tuple[int, Evaluation | None]]:
        changed = self._trainer.changed
        while True:
            with changed:
                if isinstance(self._trainer.refusal, Unavailable):
                    raise self._trainer.refusal
                run = self._trainer._find(self._run)
                if self._after < len(run.evaluations):
                    evaluation = run.evaluations[self._after]
                    self._after += 1
                elif run.end.state is not None or not self._wait:
                    return
                else:
                    changed.wait(0.05)
                    if self._cancelled:
                        raise Cancelled("CANCELLED", "the stream was cancelled")
                    continue
            yield self._after, evaluation

    def cancel(self) -> None:
        self._cancelled = True
