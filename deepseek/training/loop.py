"""Repeats the training step, and handles epochs, progress events, checkpoints and stopping.

In each step, the ranks exchange flags and decide together whether to report, save or stop. If each rank decided for
itself, a difference in clocks or signals could leave one rank waiting forever for another.
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
from deepseek.training.parallel import Ranks
from deepseek.training.save_schedule import SaveSchedule
from deepseek.training.selection import Epoch, Selection
from deepseek.training.step import TrainingStep

REPORT_INTERVAL_S = 0.5

_logger = logging.getLogger(__name__)


class Loop:
    """Executes one call of `MixedPrecisionTrainer.fit`, which documents the arguments in detail.

    Args:
        step: Training step to repeat.
        ranks: The processes that train together.
        batch_size: Number of samples per step, over all ranks.
        evaluate: Function that evaluates the model; called on every rank.
        selection: The best epoch so far.
        on_event: Function that receives each event; called on rank 0.
        checkpoint: Function that stores a checkpoint durably; called on rank 0.
        dump_weights: Function that serializes the model's weights; called on rank 0 after each best epoch.
        keep_best: Function that stores these weights durably, before the next checkpoint; called on rank 0.
        checkpoint_interval_s: Minimum time between two checkpoints, in seconds.
        stop: Function that returns whether to stop; called on every rank.

    Attributes:
        metrics: Results of the most recent evaluation.
        history: All events so far; always empty on ranks other than 0.
    """

    def __init__(
        self,
        step: TrainingStep,
        ranks: Ranks,
        *,
        batch_size: int,
        evaluate: Callable[[], dict[str, float]] | None,
        selection: Selection,
        on_event: Callable[[Event], None] | None,
        checkpoint: Callable[[], Any] | None,
        dump_weights: Callable[[], bytes],
        keep_best: Callable[[bytes], Any] | None,
        checkpoint_interval_s: float,
        stop: Callable[[], bool] | None,
    ) -> None:
        self.metrics: dict[str, float] = {}
        self.history: list[Event] = []
        self._step = step
        self._ranks = ranks
        self._num_at_least = min(2, batch_size // ranks.world_size)
        self._evaluate = evaluate
        self._selection = selection
        self._on_event = on_event
        self._checkpoint = checkpoint
        self._dump_weights = dump_weights
        self._keep_best = keep_best
        self._best_weights: bytes | None = None  # weights of the best epoch that are not stored yet
        self._pace = SaveSchedule(checkpoint_interval_s)
        self._warned_of_space = False
        self._stop = stop
        self._meter = _Meter()

    def run(self, dataset: Dataset, sampler: ResumableSampler, epochs: int) -> bool:
        """Trains until the last epoch is complete or training is stopped.

        Args:
            dataset: Data set to train on.
            sampler: Sampler of this rank's batches, already advanced to the next batch of the run.
            epochs: Number of passes over the data in the whole run.

        Returns:
            Whether training was stopped.
        """
        step = self._step
        if sampler.epoch >= epochs:
            _logger.warning("all %d epochs are done; increase epochs to continue", epochs)
        num_epochs_left = max(0, epochs - sampler.epoch)
        step.num_steps = step.step + max(0, len(sampler) + (num_epochs_left - 1) * sampler.steps_per_epoch)
        evaluated_at = -1
        while sampler.epoch < epochs and not self._selection.exhausted:
            if self._train_epoch(dataset, sampler, is_last=sampler.epoch == epochs - 1):
                return True
            step.position = sampler.state()
            if self._evaluate:
                ends_run = self._report_evaluation(self._evaluate, sampler.epoch)
                evaluated_at = step.step
                if self._checkpoint and ends_run and sampler.epoch < epochs:
                    self._save(self._checkpoint, required=True)
        if self._evaluate and evaluated_at != step.step:  # all epochs were already done, or the run ended early
            self._report_evaluation(self._evaluate, sampler.epoch)
        return False

    def _train_epoch(self, dataset: Dataset, sampler: ResumableSampler, *, is_last: bool) -> bool:
        """Trains to the end of the epoch and returns whether training was stopped.

        A checkpoint made after the last step of an epoch marks the end of that epoch, not the beginning of the next
        one. Therefore a run resumed from this checkpoint still performs the evaluation that follows the epoch. A
        checkpoint is always made after the run's last step.
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
            # Fillers are needed because a rank without samples must still take part in the step, and because batch
            # normalization cannot compute statistics from a single sample.
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

    def _report_evaluation(self, evaluate: Callable[[], dict[str, float]], epoch: int) -> bool:
        """Evaluates the model and reports the result. Returns whether the run should end early."""
        self.metrics = evaluate()
        is_best = self._selection.add(Epoch(self._step.step, epoch, self.metrics))
        if is_best and self._keep_best and self._ranks.rank == 0:
            self._best_weights = self._dump_weights()
        ends_run = self._selection.exhausted
        self.report(EvaluationEvent(self._step.step, epoch, self.metrics, is_best, ends_run))
        return ends_run

    def _save(self, checkpoint: Callable[[], Any], *, required: bool) -> None:
        """Saves a checkpoint. If the store has no room for it and `required` is False, the checkpoint is skipped."""

        def save() -> Event | None:
            try:
                # The best weights are stored first, so that every checkpoint comes with the best epoch before it.
                best = self._keep_best(self._best_weights) if self._keep_best and self._best_weights else None
                event = CheckpointEvent(self._step.step, checkpoint(), best)
                self._best_weights = None
                return event
            except ResourceExhausted as error:
                if required:
                    raise
                return self._disk_full_warning(error)

        with self._pace.saving():
            event = self._ranks.on_first(save)
        if event:
            self.report(event)

    def _disk_full_warning(self, error: ResourceExhausted) -> WarningEvent | None:
        if self._warned_of_space:
            return None
        self._warned_of_space = True
        message = f"step {self._step.step} was not saved: {error.message}. Training continues and the last checkpoint"
        return WarningEvent(f"{message} is kept, but if the store has no room at the end of the run, the run fails")

    def report(self, event: Event) -> None:
        """On rank 0, adds an event to the history and passes it to `on_event`."""
        if self._ranks.rank == 0:
            self.history.append(event)
            if self._on_event:
                self._on_event(event)


class _Meter:
    """Accumulates the sums and durations of the training steps since the last report.

    The durations do not include the time for evaluation and saving.
    """

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
        """Returns and resets the accumulated values.

        The values are this rank's sums, the samples per second over all ranks, and a moving average of the duration of
        a step in seconds. The moving average is not reset.
        """
        assert self._sums is not None
        step_s = self._seconds / self._num_steps
        self._step_s = 0.7 * self._step_s + 0.3 * step_s if self._step_s else step_s
        read = self._sums, self._num_samples / self._seconds, self._step_s
        self._sums, self._num_samples, self._num_steps, self._seconds = None, 0, 0, 0.0
        return read
