"""Mixed-precision training that can stop at any step and resume exactly, in one process or several.

    trainer = MixedPrecisionTrainer(model, optimizer=torch.optim.AdamW, precision="auto")
    result = trainer.fit(dataset, epochs=3, evaluation=test_dataset)
    trainer.save("model.safetensors")

docs/training.md describes a training step, and says which results can be reproduced exactly. `deepseek.trainjob`
handles processes and the artifact store.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InvalidArgument
from common.scalars import real_number, whole_number
from deepseek.components import LOSSES, METRICS
from deepseek.data.sampler import ResumableSampler
from deepseek.optim.factories import make_optimizer
from deepseek.privacy.releases import Release
from deepseek.processor import instruction_set
from deepseek.steering.directive import Directive
from deepseek.steering.making import make_policy
from deepseek.steering.policy import Policy
from deepseek.training import checkpoint as checkpoints
from deepseek.training import modules
from deepseek.training import precision as formats
from deepseek.training.batches import Arguments, Dataset
from deepseek.training.dp_settings import DpSgd
from deepseek.training.events import Event, PrecisionEvent
from deepseek.training.fit_result import FitResult
from deepseek.training.loop import Loop
from deepseek.training.metrics import Metric
from deepseek.training.parallel import Ranks
from deepseek.training.precision import LossScaler, Reason
from deepseek.training.progress import ProgressBar
from deepseek.training.rates import OpenPolicy, PolicyFunction, make_schedule, read_policy
from deepseek.training.schedules import Schedule
from deepseek.training.selection import LOSS, EarlyStopping, make_selection
from deepseek.training.steering import Steering
from deepseek.training.step_kinds import kind_of_step, make_sampler


class MixedPrecisionTrainer:
    """Trains a model. Not thread-safe.

    If `torch.distributed` is initialized before the trainer is created, all ranks train together, and every method must
    be called on every rank.

    Args:
        model: The model; its floating-point parameters must be float32. It is moved to the device.
        optimizer: One of: a name (e.g. `adamw`); a subclass of torch's `Optimizer` or of `OptimizerInterface`; a
            callable `(params, lr=, **optimizer_params)` that returns an instance of such a class; or an instance that
            was created with the model's parameters. Adam and AdamW use torch's fused implementation where it exists,
            unless `optimizer_params` selects another one.
        precision: `auto`, `fp32`, `bf16` or `fp16`. On CPUs, `auto` selects the format that measurements on all ranks'
            hosts show to be fastest. On CUDA, it selects bf16, or fp16 below compute capability 8.
        loss: A name, or a callable `(outputs, target) -> scalar`, which receives the outputs as float32. See
            `deepseek.training.losses`.
        lr: Learning rate; by default the optimizer's own default, or 0.001 if it has none.
        optimizer_params: Additional keyword arguments of the optimizer.
        schedule: A name, or a callable `(update, num_updates) -> factor`; by default constant.
        schedule_params: Parameters of a schedule given by name.
        policy: Policy that adjusts learning rate and momentum during training: a name, a `deepseek.steering.Policy`, or
            a function `(epoch, learning_rate) -> learning_rate`. Until it first changes the learning rate, the schedule
            applies.
        policy_params: Parameters of a policy given by name.
        metrics: Metrics to compute besides the loss, as names or `Metric` instances.
        select_metric: Figure that determines the best epoch: `loss`, or the name of one of the metrics.
        early_stopping: When to end training early, because this figure no longer improves; None for never.
        clip_norm: Maximum global gradient norm; 0 for no clipping.
        loss_scaler: Loss scaler for fp16; by default, its scale starts at 65536 and doubles after 2000 consecutive
            steps with finite gradients, as in torch.
        device: Device to train on; by default the current CUDA device, else the CPU.
        seed: Seed for shuffling, augmentation and dropout, 0 to 2^63 - 1. It does not affect the model's initial
            weights.
        inputs: For each forward argument, the name of the sample field that supplies it. By default, a field supplies
            the argument of the same name.
        target: Name of the target field; by default `target`, or `answer` if there is no field `target`.
        proximal_mu: Weight of the term mu / 2 |w - w_0|^2 that FedProx adds to the loss (Li et al. 2020), where w_0 are
            the weights at the call of `fit`.
        dp_sgd: Settings of DP-SGD; None means no DP-SGD. The batch size then applies only to evaluation, and an epoch
            has `steps_per_epoch` steps.
        open_policy: Function that makes a policy, given its name and parameters; by default, in this process.

    Raises:
        InvalidArgument: An argument is invalid, e.g. BAD_VALUE or UNKNOWN_COMPONENT; the error's field names the
            argument.

    Warns:
        SlowPrecisionWarning: The precision was requested by name, and on this CPU, a training step in this precision
            takes more than 1.5 times as long as in the fastest one.
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
        policy: str | Policy | PolicyFunction | None = None,
        policy_params: Mapping[str, Any] | None = None,
        metrics: Iterable[str | Metric] = (),
        select_metric: str = LOSS,
        early_stopping: EarlyStopping | None = None,
        clip_norm: float = 0.0,
        loss_scaler: LossScaler | None = None,
        device: str | torch.device | None = None,
        seed: int = 0,
        inputs: Mapping[str, str] | None = None,
        target: str | None = None,
        proximal_mu: float = 0.0,
        dp_sgd: DpSgd | None = None,
        open_policy: OpenPolicy = make_policy,
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
        built = [METRICS.build(one, {}, field="metrics") if isinstance(one, str) else one for one in metrics]
        self._early_stopping = early_stopping
        self._selection = make_selection(select_metric, built, early_stopping)
        self._dp_sgd = dp_sgd
        self._step = kind_of_step(dp_sgd, self._ranks)(
            model,
            make_optimizer(optimizer, list(model.parameters()), lr, optimizer_params or {}),
            self._choice.precision,
            loss=LOSSES.build(loss, {}, field="loss") if isinstance(loss, str) else loss,
            schedule=make_schedule(schedule, schedule_params),
            metrics=built,
            arguments=Arguments(model, inputs, target),
            clip_norm=real_number(clip_norm, "clip_norm"),
            scaler=loss_scaler,
            device=self._device,
            seed=seed,
            ranks=self._ranks,
            proximal_mu=real_number(proximal_mu, "proximal_mu"),
        )
        component, open_policy = read_policy(policy, policy_params, open_policy)
        self._steering = Steering(self._step, self._ranks, open_policy, component, is_private=dp_sgd is not None)
        self._warn_if_slow()

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self._step.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The torch optimizer; its attribute `inner` is the user's `OptimizerInterface`, if there is one."""
        return self._step.optimizer

    @property
    def precision(self) -> str:
        """The format in use: `fp32`, `bf16` or `fp16`."""
        return self._choice.precision

    @property
    def precision_ratios(self) -> Mapping[str, float]:
        """Measured duration of a training step in each format, relative to the fastest format; empty on CUDA."""
        return self._choice.ratios

    @property
    def steering(self) -> Steering:
        """The values and the policy of the training."""
        return self._steering

    @property
    def step(self) -> int:
        """Number of steps completed, including skipped steps."""
        return self._step.step

    @property
    def release(self) -> Release | None:
        """What the completed steps have released; None without DP-SGD, or before the first step."""
        return replace(self._dp_sgd.release(1), count=self.step) if self._dp_sgd and self.step else None

    @property
    def num_skipped_steps(self) -> int:
        """Number of steps skipped because a gradient was not finite."""
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
        keep_best: Callable[[bytes], Any] | None = None,
        stop: Callable[[], bool] | None = None,
        directives: Callable[[], Sequence[Directive]] = tuple,
        fetch: Callable[[Any], Path] | None = None,
    ) -> FitResult:
        """Trains until the run has completed `epochs` epochs, including those before a loaded checkpoint.

        Args:
            dataset: Map-style data set; a sample is a dict of fields, or a pair of input and target.
            epochs: Number of passes over the data in the whole run.
            batch_size: Number of samples per step over all ranks; at least one per rank. Each sample is used once per
                epoch, so the last batch of an epoch may be smaller. If a rank has fewer than two samples in
                a step, extra samples also pass through its model. These affect only the statistics of batch
                normalization.
            evaluation: Data set to evaluate after every epoch.
            on_event: Function called on rank 0 with each event. If it is None, a progress bar is shown on standard
                error. If standard error is not a terminal, lines are printed instead: at most one every ten seconds,
                and one at the end.
            checkpoint: Function called on rank 0 with the bytes of each checkpoint. A checkpoint is made after the last
                step and when training is stopped. More checkpoints are made in between, as long as saving takes at most
                5 % of the time. The function's return value becomes the `artifact` of the checkpoint event. If the
                function raises ResourceExhausted before the last step, training continues and reports a warning event.
            checkpoint_interval_s: Minimum time between two checkpoints, in seconds.
            keep_best: Function called on rank 0, before the next checkpoint, with the weights of an epoch that is the
                best so far, in the form of a checkpoint file. The function's return value becomes `best_weights` of the
                checkpoint event. It is not called for the last epoch, whose weights are in the last checkpoint.
            stop: Function called on every rank in every step. If it returns True on any rank, training ends after that
                step, with a checkpoint.
            directives: Function called on rank 0 before every step, which returns new directives without waiting; see
                `deepseek.training.directives.Directives`.
            fetch: Function that fetches checkpoints for directives; see there.

        Returns:
            The result.

        Raises:
            InvalidArgument: BAD_VALUE for an invalid argument; WRONG_SHAPE, WRONG_TYPE or MISSING_FIELD for invalid
                data.
            FailedPrecondition: NOT_FINITE if the gradients of 40 steps in a row were not finite.
        """
        started = time.monotonic()
        epochs, batch_size = whole_number(epochs, "epochs"), whole_number(batch_size, "batch_size")
        if epochs < 1:
            raise InvalidArgument("BAD_VALUE", f"epochs is {epochs}; it must be at least 1", field="epochs")
        if self._early_stopping and evaluation is None:
            message = "early stopping requires evaluation data"
            raise InvalidArgument("MISSING_FIELD", message, field="evaluation")
        ranks = self._ranks
        sampler = make_sampler(len(dataset), batch_size, self._seed, ranks, self._dp_sgd)
        with ExitStack() as stack:
            stack.callback(self._step.end)
            self._step.begin(sampler, len(dataset), saves=checkpoint is not None)
            # The steps seed the global generators, whose state is restored for the caller.
            stack.enter_context(torch.random.fork_rng([self._device] if self._device.type == "cuda" else []))
            if on_event is None and ranks.rank == 0:
                on_event = stack.enter_context(ProgressBar())
            loop = Loop(
                self._step,
                ranks,
                batch_size=batch_size,
                evaluate=(lambda: self.evaluate(evaluation, batch_size=batch_size)) if evaluation is not None else None,
                selection=self._selection,
                on_event=on_event,
                # The additional entry keeps the file distinct from the weights of versions that earlier code exported.
                dump_weights=lambda: checkpoints.dumps({**checkpoints.model_state(self.model), "best": True}),
                keep_best=keep_best,
                dump=lambda: checkpoints.dumps(self.state_dict()),
                checkpoint=checkpoint,
                checkpoint_interval_s=checkpoint_interval_s,
                stop=stop,
                steering=self._steering,
                directives=directives,
                fetch=fetch,
                is_private=self._dp_sgd is not None,
            )
            stack.callback(loop.close)
            loop.report(PrecisionEvent(**vars(self._choice), instruction_set=instruction_set()))
            stopped = loop.run(dataset, sampler, epochs)
        seconds = time.monotonic() - started
        best, history = self._selection.best, tuple(loop.history)
        return FitResult(loop.metrics, best, self.step, self.num_skipped_steps, stopped, seconds, history)

    def evaluate(self, dataset: Dataset, *, batch_size: int = 32) -> dict[str, float]:
        """Computes the loss and the metrics on a data set. Every sample counts once, regardless of the number of ranks.

        Args:
            dataset: Data set, as for `fit`.
            batch_size: Number of samples per batch over all ranks.

        Returns:
            `loss` and each metric by name, identical on every rank.
        """
        ranks = self._ranks
        sampler = ResumableSampler(
            len(dataset), batch_size, shuffle=False, rank=ranks.rank, world_size=ranks.world_size
        )
        return self._step.evaluate(dataset, sampler)

    def save(self, path: str | Path) -> None:
        """Writes a checkpoint file atomically, on rank 0 only.

        Raises:
            OSError: The file cannot be written; an existing file is unchanged.
            Aborted: RANK_FAILED on the other ranks if rank 0 cannot write the file.
        """
        self._ranks.on_first(lambda: checkpoints.write(Path(path), checkpoints.dumps(self.state_dict())))

    def load(self, path: str | Path) -> None:
        """Resumes from a checkpoint file, which every rank reads.

        The number of ranks, the batch size and the optimizer's settings, such as the learning rate, may differ from
        those of the checkpoint's run. In that case, this trainer's values apply. If the trainer's precision is `auto`,
        the checkpoint's format is used, even if another format is faster on this host. If this method raises an
        error, the trainer must not be used any more.

        Raises:
            DataLoss: BAD_CHECKPOINT if the file is damaged or not a checkpoint.
            InvalidArgument: WRONG_MODEL, WRONG_OPTIMIZER or BAD_STATE if the checkpoint belongs to another run.
            OSError: The file cannot be read.
        """
        state = checkpoints.read(path)
        if self._is_auto:
            self._choice = replace(self._choice, precision=formats.precision_of_checkpoint(state), reason=Reason.KEPT)
            self._step.set_precision(self._choice.precision)
        self._step.load_state_dict(state)
        self._selection.load_state_dict(state.get("selection"))
        self._steering.load_state_dict(state.get("steering"))
        if self._is_auto:
            self._warn_if_slow()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state that `save` stores: `model`, `optimizer` and the run's progress. Tensors are not copied."""
        selection, steering = self._selection.state_dict(), self._steering.state_dict()
        return {**self._step.state_dict(), "selection": selection, "steering": steering}

    def _warn_if_slow(self) -> None:
        if self._choice.warning and self._ranks.rank == 0:
            warnings.warn(self._choice.warning, formats.SlowPrecisionWarning, stacklevel=3)
