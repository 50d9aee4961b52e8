"""The loop around the step: epochs, progress events, checkpoints, and stopping.

Whatever ranks have to do together (report, save, stop) is decided by all of them in the step's own exchange, so no
clock or signal that differs between them can make one wait for another.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from common.errors import ResourceExhausted
from deepseek.data.sampler import ResumableSampler
from deepseek.training.batches import Dataset
from deepseek.training.events import CheckpointEvent, EvaluationEvent, Event, StepEvent, WarningEvent
from deepseek.training.pace import Pace
from deepseek.training.parallel import Ranks
from deepseek.training.step import TrainingStep

REPORT_INTERVAL_S = 0.5

_log = logging.getLogger(__name__)


class Loop:
    """Carries out one call of `MixedPrecisionTrainer.fit`, which says what the arguments are.

    Args:
        step: Does the steps.
        ranks: The processes that train together.
        batch_size: Samples a step over all ranks together.
        evaluate: Evaluates the model; called on every rank.
        on_event: Takes events; called on rank 0.
        checkpoint: Makes a checkpoint durable; called on rank 0.
        checkpoint_interval_s: Shortest time between checkpoints, seconds.
        stop: Whether to stop; asked on every rank.

    Attributes:
        metrics: Of the last evaluation.
        history: Every event; on rank 0 only.
    """

    def __init__(
        self,
        step: TrainingStep,
        ranks: Ranks,
        *,
        batch_size: int,
        evaluate: Callable[[], dict[str, float]] | None,
        on_event: Callable[[Event], None] | None,
        checkpoint: Callable[[], Any] | None,
        checkpoint_interval_s: float,
        stop: Callable[[], bool] | None,
    ) -> None:
        self.metrics: dict[str, float] = {}
        self.history: list[Event] = []
        self._step = step
        self._ranks = ranks
        self._num_at_least = min(2, batch_size // ranks.world_size)
        self._evaluate = evaluate
        self._on_event = on_event
        self._checkpoint = checkpoint
        self._pace = Pace(checkpoint_interval_s)
        self._warned_of_space = False
        self._stop = stop
        self._meter = _Meter()

    def run(self, dataset: Dataset, sampler: ResumableSampler, epochs: int) -> bool:
        """Trains to the end of the last epoch.

        Args:
            dataset: The data.
            sampler: This rank's batches, from where the run stands on.
            epochs: Passes of the whole run.

        Returns:
            Whether it was stopped before.
        """
        step = self._step
        if sampler.epoch >= epochs:
            _log.warning("all %d epochs are done; to train on, ask for more", epochs)
        num_epochs_left = max(0, epochs - sampler.epoch)
        step.num_steps = step.step + max(0, len(sampler) + (num_epochs_left - 1) * sampler.steps_per_epoch)
        evaluated_at = -1
        while sampler.epoch < epochs:
            if self._train_epoch(dataset, sampler, is_last=sampler.epoch == epochs - 1):
                return True
            step.position = sampler.state()
            if self._evaluate:
                self._report_evaluation(self._evaluate, sampler.epoch)
                evaluated_at = step.step
        if self._evaluate and evaluated_at != step.step:  # there was nothing left to train
            self._report_evaluation(self._evaluate, sampler.epoch)
        return False

    def _train_epoch(self, dataset: Dataset, sampler: ResumableSampler, *, is_last: bool) -> bool:
        """Trains to the end of the epoch; True if it was stopped.

        A checkpoint after an epoch's last step is at the end of that epoch, not at the beginning of the next: a run
        that resumes from it still evaluates. The run's last step is always saved.
        """
        step = self._step
        order, epoch, start = sampler.order(sampler.epoch), sampler.epoch + 1, sampler.position
        began_at = reported_at = time.monotonic()
        for indices in sampler:
            end = min(sampler.position, len(dataset))
            last = end == len(dataset)
            first_rank = self._ranks.rank == 0
            flags = (
                bool(self._stop and self._stop()),
                (last and is_last) or (first_rank and self._pace.due),
                last or (first_rank and began_at - reported_at >= REPORT_INTERVAL_S),
            )
            # A rank without samples has to compute along, and one sample alone has no statistics to normalise by.
            fillers = [int(order[i % len(order)]) for i in range(self._num_at_least - len(indices))]
            sums, (stopped, due, report) = step(dataset, indices, fillers, flags)
            step.position = {**sampler.state(), "position": end}
            now = time.monotonic()
            self._meter.add(sums, end - start, now - began_at)
            if report:
                self.report(self._step_event(epoch))
                reported_at = now
            if self._checkpoint and (stopped or due):
                self._save(self._checkpoint, required=last and is_last)
            if stopped:
                return True
            start, began_at = end, time.monotonic()
        return False

    def _step_event(self, epoch: int) -> StepEvent:
        step = self._step
        sums, samples_per_second, step_s = self._meter.read()
        sums = self._ranks.sum_(sums)
        return StepEvent(
            step=step.step,
            num_steps=step.num_steps,
            epoch=epoch,
            metrics=step.results(sums.tolist()),
            samples_per_second=samples_per_second,
            eta_s=step_s * (step.num_steps - step.step),
            learning_rate=step.learning_rate,
            num_skipped_steps=step.num_skipped_steps,
        )

    def _report_evaluation(self, evaluate: Callable[[], dict[str, float]], epoch: int) -> None:
        self.metrics = evaluate()
        self.report(EvaluationEvent(self._step.step, epoch, self.metrics))

    def _save(self, checkpoint: Callable[[], Any], *, required: bool) -> None:
        """Makes a checkpoint; one that is not required is skipped if it does not fit into the store."""

        def save() -> Event | None:
            try:
                return CheckpointEvent(self._step.step, checkpoint())
            except ResourceExhausted as error:
                if required:
                    raise
                return self._no_room(error)

        with self._pace.saving():
            event = self._ranks.on_first(save)
        if event:
            self.report(event)

    def _no_room(self, error: ResourceExhausted) -> WarningEvent | None:
        if self._warned_of_space:
            return None
        self._warned_of_space = True
        message = f"step {self._step.step} was not saved: {error.message}. Training continues and the last checkpoint"
        return WarningEvent(f"{message} is kept, but the store must have room for one more at the end of the run")

    def report(self, event: Event) -> None:
        """Adds an event to the history and passes it on, on rank 0."""
        if self._ranks.rank == 0:
            self.history.append(event)
            if self._on_event:
                self._on_event(event)


class _Meter:
    """Adds up what happens between two reports. Evaluating and saving are not part of it."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._num_samples = 0
        self._num_steps = 0
        self._seconds = 0.0
        self._step_s = 0.0

    def add(self, sums: Tensor, num_samples: int, seconds: float) -> None:
        self._sums = sums if self._sums is None else self._sums + sums
        self._num_samples += num_samples
        self._num_steps += 1
        self._seconds += seconds

    def read(self) -> tuple[Tensor, float, float]:
        """Returns this rank's sums, samples a second over all, and the smoothed seconds a step; starts anew."""
        assert self._sums is not None
        step_s = self._seconds / self._num_steps
        self._step_s = 0.7 * self._step_s + 0.3 * step_s if self._step_s else step_s
        read = self._sums, self._num_samples / self._seconds, self._step_s
        self._sums, self._num_samples, self._num_steps, self._seconds = None, 0, 0, 0.0
        return read
