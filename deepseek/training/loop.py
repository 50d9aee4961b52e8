"""Repeats the training step, and handles epochs, progress events, checkpoints and stopping.

In each step, the ranks exchange flags and decide together whether to report, save or stop. If each rank decided for
itself, a difference in clocks or signals could leave one rank waiting forever for another.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from common.errors import ResourceExhausted
from deepseek.data.sampler import ResumableSampler
from deepseek.steering.directive import Directive
from deepseek.training.batches import Dataset
from deepseek.training.directives import Directives
from deepseek.training.events import CheckpointEvent, EvaluationEvent, Event, StepEvent, WarningEvent
from deepseek.training.parallel import Ranks
from deepseek.training.rescue import Rescue
from deepseek.training.save_schedule import SaveSchedule
from deepseek.training.selection import Epoch, Selection
from deepseek.training.steering import Steering
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
        dump: Function that returns the bytes of a checkpoint; called on rank 0.
        checkpoint: Function that stores these bytes durably; called on rank 0.
        dump_weights: Function that serializes the model's weights; called on rank 0 after each best epoch.
        keep_best: Function that stores these weights durably, before the next checkpoint; called on rank 0.
        checkpoint_interval_s: Minimum time between two checkpoints, in seconds.
        stop: Function that returns whether to stop; called on every rank.
        steering: Values and policy of the training.
        directives: Function that receives directives, as for `Directives`.
        fetch: Function that fetches checkpoints, as for `Directives`.
        is_private: Whether a checkpoint is saved before every evaluation, and figures of the training stay secret. A
            private run whose noise is drawn again after a crash must not have reported anything about the weights that
            were lost.

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
        dump: Callable[[], bytes],
        checkpoint: Callable[[bytes], Any] | None,
        dump_weights: Callable[[], bytes],
        keep_best: Callable[[bytes], Any] | None,
        checkpoint_interval_s: float,
        stop: Callable[[], bool] | None,
        steering: Steering,
        directives: Callable[[], Sequence[Directive]],
        fetch: Callable[[Any], Path] | None,
        is_private: bool = False,
    ) -> None:
        self.metrics: dict[str, float] = {}
        self.history: list[Event] = []
        self._step = step
        self._ranks = ranks
        self._num_at_least = min(2, batch_size // ranks.world_size)
        self._evaluate = evaluate
        self._selection = selection
        self._on_event = on_event
        self._dump = dump
        self._checkpoint = checkpoint
        self._dump_weights = dump_weights
        self._keep_best = keep_best
        self._best_weights: bytes | None = None  # weights of the best epoch that are not stored yet
        self._pace = SaveSchedule(checkpoint_interval_s)
        self._warned_of_space = False
        self._stop = stop
        self._steering = steering
        self._directives = Directives(steering, step, ranks, directives, fetch)
        self._rescue = Rescue(step, steering, ranks, dump, is_private=is_private)
        if ranks.world_size > 1:
            step.on_flags = self._on_flags
        self._is_private = is_private
        self._meter = _Meter()

    def run(self, dataset: Dataset, sampler: ResumableSampler, epochs: int) -> bool:
        """Trains until the last epoch is complete or training is stopped.

        Args:
            dataset: Data set to train on.
            sampler: Sampler of this rank's batches, already advanced to the next batch of the run.
            epochs: Number of passes over the data in the whole run.

        Returns:
            Whether training was stopped.

        Raises:
            FailedPrecondition: NOT_FINITE if the gradients of 40 steps in a row were not finite.
        """
        step = self._step
        if sampler.epoch >= epochs:
            _logger.warning("all %d epochs are done; increase epochs to continue", epochs)
        num_epochs_left = max(0, epochs - sampler.epoch)
        step.num_steps = step.step + max(0, len(sampler) + (num_epochs_left - 1) * sampler.steps_per_epoch)
        evaluated_at = -1
        self._steering.continue_at(sampler.epoch, epochs)
        self._directives.begin()
        while sampler.epoch < epochs and not self._selection.exhausted:
            if sampler.position == 0:
                self._begin_epoch(sampler.epoch, epochs)
            if self._train_epoch(dataset, sampler, is_last=sampler.epoch == epochs - 1):
                self._steering.keep_sums()
                return True
            step.position = sampler.state()
            if self._evaluate:
                ends_run = self._report_evaluation(self._evaluate, sampler.epoch)
                evaluated_at = step.step
                if self._checkpoint and ends_run and sampler.epoch < epochs:
                    self._save(self._checkpoint, required=True)
        if self._evaluate and evaluated_at != step.step:  # all epochs were already done, or the run ended early
            self._report_evaluation(self._evaluate, sampler.epoch)
        self._steering.keep_sums()
        return False

    def close(self) -> None:
        """Frees what only this call of `fit` needs. Idempotent."""
        self._directives.close()
        self._rescue.close()

    def _begin_epoch(self, epoch: int, epochs: int) -> None:
        self._steering.begin_epoch(epoch, epochs, self.metrics)
        self._report_steering()

    def _report_steering(self) -> None:
        for event in (*self._steering.news(), *self._directives.news()):
            self.report(event)

    def _on_flags(self, flags: Sequence[bool]) -> None:
        """Applies new directives in the step in which rank 0 has told the others that there are some."""
        if flags[-1]:
            self._directives.take()
            self._directives.within_step()

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
            has_directives = self._directives.poll()
            if has_directives and self._ranks.world_size == 1:
                self._directives.take()
            # The policy comes first, as it does for directives that arrive within the step, so that repeating them has
            # the same effect; and again, because a restored checkpoint has the values of another step.
            self._steering.before_step()
            self._directives.before_step()
            self._steering.before_step()
            self._rescue.before_step()
            is_due = first_rank and self._pace.due and not step.num_skipped_in_a_row  # else, the weights may be bad
            flags = (
                bool(self._stop and self._stop()),
                (last and (is_last or self._is_private)) or is_due,
                last or (first_rank and began_at - reported_at >= REPORT_INTERVAL_S),
                has_directives,
            )
            # Fillers are needed because a rank without samples must still take part in the step, and because batch
            # normalization cannot compute statistics from a single sample.
            fillers = [int(order[i % len(order)]) for i in range(self._num_at_least - len(indices))]
            sums, (stopped, due, report, _) = step(dataset, indices, fillers, flags)
            step.position = {**sampler.state(), "position": end}
            due = self._rescue.after_step(sums) or due  # so that the run need not be rescued again after a crash
            now = time.monotonic()
            self._meter.add(sums, end - start, now - began_at)
            self._steering.add(sums)
            if report:
                self.report(self._step_event(epoch))
                reported_at = now
            self._report_steering()
            stopped, saved = stopped or self._directives.stops, None
            if self._checkpoint and (stopped or due or self._directives.saves):
                saved = self._save(self._checkpoint, required=last and (is_last or self._is_private))
            self._directives.after_step(saved)
            self._report_steering()
            if stopped:
                return True
            start, began_at = end, time.monotonic()
        return False

    def _step_event(self, epoch: int) -> StepEvent:
        step = self._step
        sums, samples_per_second, step_s = self._meter.read()
        sums = self._ranks.sum_(sums.clone())  # they may be those of one step, which the steering has kept
        return StepEvent(
            step=step.step,
            num_steps=step.num_steps,
            epoch=epoch,
            metrics=step.results(sums.tolist()),
            samples_per_second=samples_per_second,
            eta_s=step_s * (step.num_steps - step.step),
            learning_rate=step.learning_rate,
            num_skipped_steps=step.num_skipped_steps,
            gradient_norm=float(step.update.gradient_norm),
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

    def _save(self, checkpoint: Callable[[bytes], Any], *, required: bool) -> Event | None:
        """Saves a checkpoint. If the store has no room for it and `required` is False, the checkpoint is skipped.

        Returns:
            The event that was reported on rank 0.
        """

        def save() -> Event | None:
            try:
                # The best weights are stored first, so that every checkpoint comes with the best epoch before it.
                best = self._keep_best(self._best_weights) if self._keep_best and self._best_weights else None
                data = self._dump()
                event = CheckpointEvent(self._step.step, checkpoint(data), best)
                self._best_weights = None
                self._rescue.keep(data)
                return event
            except ResourceExhausted as error:
                if required:
                    raise
                return self._disk_full_warning(error)

        self._steering.keep_sums()
        with self._pace.saving():
            event = self._ranks.on_first(save)
        if event:
            self.report(event)
        return event

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
