"""Mixed-precision training that can stop anywhere and go on exactly, on one process or many.

    trainer = MixedPrecisionTrainer(model, optimizer=torch.optim.AdamW, precision="auto")
    result = trainer.fit(dataset, epochs=3, evaluation=test_dataset)
    trainer.save("model.safetensors")

One step, in this order: forward and backward in low precision -> gradients averaged over the ranks -> unscaled -> not
finite anywhere? (decided for all ranks together) -> clipped -> optimizer -> loss scale; the schedule moves only if the
optimizer did.

Where a run stands is weights, optimizer state, loss scale and three numbers of the sampler. Random numbers are not
part of it: every step seeds torch's generator by (seed, step, rank). Therefore, training k steps, saving, loading in
another process and training k more gives bit for bit the weights of 2k steps in one go, with the same number of ranks
and threads, on 1 and on 2 ranks; with more, gloo's ring may add in another order after a restart, because DDP arranges
its buckets anew.

A run on several ranks has the gradients of one on a single process with the same batch size, up to rounding, however
the targets fall to the ranks: each rank's mean loss counts by its number of targets. This does not hold for what a
model computes over its batch (batch normalisation sees its rank's share) and for random numbers (dropout,
augmentation).

Not a place for models, data or optimizers; nor for processes (`deepseek.training.worker`), nor for the store: where a
checkpoint goes is the caller's affair.
"""

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InvalidArgument
from common.scalars import real_number, whole_number
from deepseek.components import LOSSES, METRICS, SCHEDULES
from deepseek.data.sampler import ResumableSampler
from deepseek.optim.factories import make_optimizer
from deepseek.processor import instruction_set
from deepseek.training import checkpoint as checkpoints
from deepseek.training import modules
from deepseek.training import precision as formats
from deepseek.training.batches import Arguments, Dataset
from deepseek.training.events import Event, PrecisionEvent
from deepseek.training.loop import Loop
from deepseek.training.metrics import Metric
from deepseek.training.parallel import Ranks
from deepseek.training.precision import LossScaler, Reason
from deepseek.training.progress import ProgressBar
from deepseek.training.schedules import Schedule, constant
from deepseek.training.step import TrainingStep

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """What a call of `fit` did; equal on every rank but for the history, which only rank 0 has.

    Attributes:
        metrics: Of the last evaluation; empty without evaluation data.
        step: Steps done in the whole run, skipped ones included.
        num_skipped_steps: Steps skipped in the whole run because a gradient was not finite.
        stopped: `stop` ended it before the last step.
        train_s: Wall time of the call, seconds.
        history: Every event of the call.
    """

    metrics: Mapping[str, float]
    step: int
    num_skipped_steps: int
    stopped: bool
    train_s: float
    history: Sequence[Event] = field(default=(), repr=False)


class MixedPrecisionTrainer:
    """Trains a model; see the module's text for what it guarantees. Not thread-safe.

    If `torch.distributed` is initialised when it is made, all ranks train together and every method is to be called on
    all of them.

    Args:
        model: The model; its floating-point parameters must be float32. It is moved to the device.
        optimizer: A torch optimizer's class, an `OptimizerInterface` class, any callable `(params, lr=, **params)` that
            returns one of these, an instance that was made from the model's parameters, or a name (`adamw`). Adam and
            AdamW run in torch's fused form where there is one, unless `optimizer_params` says otherwise.
        precision: `auto`, `fp32`, `bf16` or `fp16`. On CPUs `auto` is the format that is fastest on the slowest rank's
            host, by measurement; on CUDA it is bf16, or fp16 before compute capability 8.
        loss: A name, or a callable `(outputs, target) -> scalar`; outputs come in float32. See
            `deepseek.training.losses`.
        lr: Learning rate; by default the optimizer's own default, or 0.001 if it has none.
        optimizer_params: Further keyword arguments of the optimizer.
        schedule: A name, or a callable `(update, num_updates) -> factor`; by default constant.
        schedule_params: Parameters of a schedule that is named.
        metrics: Names or `Metric`s to compute beside the loss.
        clip_norm: Largest global gradient norm; 0 for no clipping.
        loss_scaler: Loss scale of fp16; by default torch's: 65536 at first, doubled after 2000 good steps.
        device: Where to train; by default the current CUDA device, else the CPU.
        seed: Of shuffling, augmentation and dropout, 0 to 2^63 - 1. The model has its weights already.
        inputs: Field of a sample for each forward argument; by default the fields that forward's arguments are named
            after.
        target: Field of the target; by default `target` or `answer`.

    Raises:
        InvalidArgument: BAD_VALUE, UNKNOWN_COMPONENT and the like, with the argument's name as the field.

    Warns:
        SlowPrecisionWarning: The precision was requested by name and takes more than 1.5 times as long on this CPU as
            the fastest.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any = torch.optim.AdamW,
        precision: str = "auto",
        *,
        loss: str | Callable[[Any, Any], Tensor] = "cross_entropy",
        lr: float | None = None,
        optimizer_params: Mapping[str, Any] | None = None,
        schedule: str | Schedule | None = None,
        schedule_params: Mapping[str, Any] | None = None,
        metrics: Iterable[str | Metric] = (),
        clip_norm: float = 0.0,
        loss_scaler: LossScaler | None = None,
        device: str | torch.device | None = None,
        seed: int = 0,
        inputs: Mapping[str, str] | None = None,
        target: str | None = None,
    ) -> None:
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._seed = seed = whole_number(seed, "seed")
        self._ranks = Ranks(self._device)
        modules.check_model(model)
        self._choice = formats.choose(precision, self._device, self._ranks)
        self._is_auto = precision == "auto"
        model = model.to(self._device)
        if isinstance(loss, nn.Module):
            if any(param.requires_grad for param in loss.parameters()):
                message = "the loss has its own parameters, which would not be trained; make them part of the model"
                raise InvalidArgument("BAD_VALUE", message, field="loss")
            loss.to(self._device)
        self._step = TrainingStep(
            model,
            make_optimizer(optimizer, list(model.parameters()), lr, optimizer_params or {}),
            self._choice.precision,
            loss=LOSSES.build(loss, {}, field="loss") if isinstance(loss, str) else loss,
            schedule=_make_schedule(schedule, schedule_params),
            metrics=[METRICS.build(m, {}, field="metrics") if isinstance(m, str) else m for m in metrics],
            arguments=Arguments(model, inputs, target),
            clip_norm=real_number(clip_norm, "clip_norm"),
            scaler=loss_scaler,
            device=self._device,
            seed=seed,
            ranks=self._ranks,
        )
        self._warn_if_slow()

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self._step.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer; one of one's own is its `inner`."""
        return self._step.optimizer

    @property
    def precision(self) -> str:
        """`fp32`, `bf16` or `fp16`: what `auto` has become."""
        return self._choice.precision

    @property
    def precision_ratios(self) -> Mapping[str, float]:
        """Measured time of a training step in each format relative to the fastest; empty on CUDA."""
        return self._choice.ratios

    @property
    def step(self) -> int:
        """Steps done, skipped ones included."""
        return self._step.step

    @property
    def num_skipped_steps(self) -> int:
        """Steps skipped because a gradient was not finite."""
        return self._step.num_skipped_steps

    def fit(
        self,
        dataset: Dataset,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        evaluation: Dataset | None = None,
        on_event: Callable[[Event], None] | None = None,
        checkpoint: Callable[[bytes], Any] | None = None,
        checkpoint_interval_s: float = 10.0,
        stop: Callable[[], bool] | None = None,
    ) -> FitResult:
        """Trains until the run has passed over the data `epochs` times, what a loaded checkpoint has done included.

        Args:
            dataset: Map-style; a sample is a dict of fields, or a pair of input and target.
            epochs: Passes of the whole run.
            batch_size: Samples a step over all ranks together, at least one a rank. Each sample is seen once an epoch,
                so the last batch of an epoch is as short as it is. Where that leaves a rank fewer than two samples, it
                computes along on others that do not count, but are in the statistics of batch normalisation.
            evaluation: Evaluated after every epoch.
            on_event: Called on rank 0 with each event. Without it, a progress bar is shown on standard error; if that
                is not a terminal, a line is printed at most every ten seconds and one at the end.
            checkpoint: Called on rank 0 with the bytes of a checkpoint: after the last step, when stopped, and in
                between for at most 5 % of the time. Its return value becomes the event's `artifact`.
                If it raises ResourceExhausted before the last step, a warning event says so and training continues.
            checkpoint_interval_s: Shortest time between checkpoints, seconds.
            stop: Asked on every rank once a step; if any says True, a checkpoint is made after the step and training
                ends.

        Returns:
            What was done.

        Raises:
            InvalidArgument: BAD_VALUE, or what the data lacks (`deepseek.training.batches`).
            FailedPrecondition: NOT_FINITE if 40 steps in a row had gradients that are not finite.
        """
        started = time.monotonic()
        epochs, batch_size = whole_number(epochs, "epochs"), whole_number(batch_size, "batch_size")
        if epochs < 1:
            raise InvalidArgument("BAD_VALUE", f"epochs is {epochs}; it must be at least 1", field="epochs")
        ranks = self._ranks
        sampler = ResumableSampler(
            len(dataset), batch_size, seed=self._seed, rank=ranks.rank, world_size=ranks.world_size
        )
        with ExitStack() as stack:
            stack.callback(self._step.end)
            self._step.begin(sampler, len(dataset), saves=checkpoint is not None)
            # The steps seed the generators; whoever calls fit gets theirs back as they were.
            stack.enter_context(torch.random.fork_rng([self._device] if self._device.type == "cuda" else []))
            if on_event is None and ranks.rank == 0:
                on_event = stack.enter_context(ProgressBar())
            loop = Loop(
                self._step,
                ranks,
                batch_size=batch_size,
                evaluate=(lambda: self.evaluate(evaluation, batch_size=batch_size)) if evaluation is not None else None,
                on_event=on_event,
                checkpoint=(lambda: checkpoint(checkpoints.dumps(self.state_dict()))) if checkpoint else None,
                checkpoint_interval_s=checkpoint_interval_s,
                stop=stop,
            )
            loop.report(PrecisionEvent(**vars(self._choice), instruction_set=instruction_set()))
            stopped = loop.run(dataset, sampler, epochs)
        seconds = time.monotonic() - started
        return FitResult(loop.metrics, self.step, self.num_skipped_steps, stopped, seconds, tuple(loop.history))

    def evaluate(self, dataset: Dataset, *, batch_size: int = 32) -> dict[str, float]:
        """Computes the loss and the metrics; every sample counts once, however many ranks there are.

        Args:
            dataset: As for `fit`.
            batch_size: Samples at a time over all ranks together.

        Returns:
            `loss` and each metric, the same on every rank.
        """
        ranks = self._ranks
        sampler = ResumableSampler(
            len(dataset), batch_size, shuffle=False, rank=ranks.rank, world_size=ranks.world_size
        )
        return self._step.evaluate(dataset, sampler)

    def save(self, path: str | Path) -> None:
        """Writes a checkpoint file, whole or not at all; only rank 0 writes.

        Raises:
            OSError: It cannot be written; a file that was there is untouched.
            Aborted: RANK_FAILED on the other ranks in that case.
        """
        self._ranks.on_first(lambda: checkpoints.write(Path(path), checkpoints.dumps(self.state_dict())))

    def load(self, path: str | Path) -> None:
        """Goes on from a checkpoint file; every rank reads it.

        The number of ranks, the batch size, the learning rate and other parameters of the optimizer may be others
        than when it was saved: those given to this trainer apply. A trainer with the precision `auto` adopts the
        checkpoint's, even on a host where another would be faster. Do not use the trainer after an error.

        Raises:
            DataLoss: BAD_CHECKPOINT if it is damaged or none of ours.
            InvalidArgument: WRONG_MODEL, WRONG_OPTIMIZER or BAD_STATE if it is of another run.
            OSError: It cannot be read.
        """
        state = checkpoints.read(path)
        if self._is_auto:
            self._choice = replace(self._choice, precision=formats.kept_by(state), reason=Reason.KEPT)
            self._step.use(self._choice.precision)
        self._step.load_state_dict(state)
        if self._is_auto:
            self._warn_if_slow()

    def state_dict(self) -> dict[str, Any]:
        """Returns what `save` stores: `model`, `optimizer` and where the run stands. Tensors are not copied."""
        return self._step.state_dict()

    def _warn_if_slow(self) -> None:
        if self._choice.warning and self._ranks.rank == 0:
            warnings.warn(self._choice.warning, formats.SlowPrecisionWarning, stacklevel=3)


def _make_schedule(schedule: str | Schedule | None, params: Mapping[str, Any] | None) -> Schedule:
    if isinstance(schedule, str):
        made: Schedule = SCHEDULES.build(schedule, params or {}, field="schedule")
        return made
    if params:
        raise InvalidArgument("BAD_VALUE", "only a schedule that is named takes parameters", field="schedule_params")
    return schedule or constant()
