"""Executes training steps, and saves and restores the state that they change."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import Internal, InvalidArgument
from deepseek.data.sampler import ResumableSampler
from deepseek.optim.factories import needs_closure
from deepseek.optim.momentum import momentum_of, set_momentum
from deepseek.optim.state import OptimizerState
from deepseek.training import checkpoint as checkpoints
from deepseek.training import modules
from deepseek.training.batches import Arguments, Dataset
from deepseek.training.generators import StepGenerators
from deepseek.training.metrics import Metric
from deepseek.training.objective import Objective
from deepseek.training.parallel import Ranks
from deepseek.training.precision import LossScaler
from deepseek.training.replica import ProximalReplica, Replica
from deepseek.training.schedules import Schedule
from deepseek.training.step_times import DTYPES
from deepseek.training.trees import EXTRA_STATE
from deepseek.training.update import WeightUpdate

MAX_SKIPPED_IN_A_ROW = 40
"""Number of consecutive skipped steps after which training fails (`deepseek.training.rescue`).

By then, a loss scale that started at its default is below 1e-7.
"""


class TrainingStep:
    """Executes the training steps of a run. `MixedPrecisionTrainer` documents the arguments.

    Attributes:
        model: The model.
        optimizer: The optimizer.
        step: Number of steps completed, including skipped steps.
        num_steps: Number of steps in the whole run, which is the schedule's length.
        num_skipped_steps: Number of steps skipped so far because a gradient was not finite.
        num_skipped_in_a_row: Number of them since the last update. At `MAX_SKIPPED_IN_A_ROW`, training cannot continue.
        position: State of the sampler after the most recent step.
        on_flags: Function called with the combined flags before the weights are updated. With a single rank, it is not
            needed.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        precision: str,
        *,
        loss: Callable[[Any, Any], Tensor],
        schedule: Schedule,
        metrics: Sequence[Metric],
        arguments: Arguments,
        clip_norm: float,
        scaler: LossScaler | None,
        device: torch.device,
        seed: int,
        ranks: Ranks,
        proximal_mu: float = 0.0,
    ) -> None:
        if not 0 <= seed < 1 << 63:
            raise InvalidArgument("BAD_VALUE", f"seed is {seed}; it must be from 0 to 2^63 - 1", field="seed")
        if not 0 <= proximal_mu < math.inf:
            message = f"proximal_mu is {proximal_mu}; it must be finite and at least 0"
            raise InvalidArgument("BAD_VALUE", message, field="proximal_mu")
        self._proximal_mu = proximal_mu
        self.model = model
        self.optimizer = optimizer
        self.step = 0
        self.num_steps = 0
        self.num_skipped_steps = 0
        self.position = {"seed": seed, "epoch": 0, "position": 0}
        self.on_flags: Callable[[Sequence[bool]], None] | None = None
        self._num_samples: int | None = None
        self.num_skipped_in_a_row = 0
        self._given_scaler = scaler
        self._needs_closure = needs_closure(optimizer)
        self._generators = StepGenerators(seed, device)
        self._objective = Objective(model, loss, metrics, arguments, device)
        self._update_weights = WeightUpdate(
            optimizer,
            schedule=schedule,
            clip_norm=clip_norm,
            ranks=ranks,
            generators=self._generators,
        )
        self.set_precision(precision)
        self._device = device
        self._seed = seed
        self._ranks = ranks
        self._optimizer_state = OptimizerState(optimizer)
        self._is_checked = True  # False if the state must be checked after the next update
        self._shapes = _shapes(modules.uncompiled(model).state_dict())

    @property
    def learning_rate(self) -> float:
        """Learning rate of the first parameter group in the most recent step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def update(self) -> WeightUpdate:
        """The part of the step that updates the weights."""
        return self._update_weights

    @property
    def next_rate(self) -> float:
        """Learning rate that the next step will use for the first parameter group."""
        return self._update_weights.next_rate(self.step - self.num_skipped_steps, self.num_steps)

    def set_precision(self, precision: str) -> None:
        """Sets the numeric format of the computation (`fp32`, `bf16` or `fp16`), and resets the loss scale.

        Raises:
            InvalidArgument: BAD_VALUE for fp16 with an optimizer that needs a closure.
        """
        if precision == "fp16" and self._needs_closure:
            message = (
                f"{type(self.optimizer).__name__} evaluates the loss several times per step, which does not work "
                "with the loss scale of fp16; use fp32 or bf16"
            )
            raise InvalidArgument("BAD_VALUE", message, field="precision")
        self._precision = precision
        self._objective.dtype = DTYPES[precision]
        self._update_weights.scaler = (self._given_scaler or LossScaler()) if precision == "fp16" else None

    def begin(self, sampler: ResumableSampler, num_samples: int, *, saves: bool) -> None:
        """Prepares for training, and advances a new sampler to the next batch of the run.

        Args:
            sampler: New sampler of the data set.
            num_samples: Number of samples in the data set.
            saves: Whether the state will be saved. If so, this method checks that it can be, and the check is repeated
                after the first update.

        Raises:
            InvalidArgument: BAD_VALUE if the data set differs in size from the one with which the run began, or if no
                parameter can be trained; BAD_STATE if the state cannot be saved.
        """
        modules.check_trainable(self.model)
        if self._num_samples not in (None, num_samples):
            message = (
                f"the run began with a data set of {self._num_samples} samples, but this one has {num_samples}; "
                "use the run's data set"
            )
            raise InvalidArgument("BAD_VALUE", message, field="dataset")
        self._num_samples = num_samples
        sampler.load_state(self.position)
        if saves:
            checkpoints.check(self.state_dict())
        self._is_checked = not saves
        if not self.model.training:
            self.model.train()
        self._update_weights.replica = self.make_replica()

    def make_replica(self) -> Replica:
        """Returns the replica that computes the gradients of this call of `fit`."""
        replica = self._ranks.replicate(self.model)
        return ProximalReplica(replica, self.model, self._proximal_mu) if self._proximal_mu else replica

    def end(self) -> None:
        """Frees the objects that are needed only during training."""
        self._update_weights.replica = self.on_flags = None
        self._ranks.collect()

    def __call__(
        self, dataset: Dataset, indices: Sequence[int], fillers: Sequence[int], flags: Sequence[bool]
    ) -> tuple[Tensor, list[bool]]:
        """Executes one step.

        Args:
            dataset: Data set of the run.
            indices: Indices of this rank's samples; may be empty.
            fillers: Indices of additional samples that pass through the model but affect neither loss nor metrics. At
                least one is required if `indices` is empty.
            flags: Flags to combine with those of the other ranks.

        Returns:
            sums: Float64 sums over this rank's samples, from which `results` computes the loss and the metrics; zeros
                if the step was skipped.
            flags: Combined flags, each True if that flag was True on at least one rank.

        Raises:
            InvalidArgument: The loss or the optimizer rejects its input; BAD_STATE if the state cannot be saved.
            Internal: RANKS_DIVERGED if some ranks skipped the previous step and others did not.
        """
        assert self._update_weights.replica is not None, "begin must be called first"
        self._generators.step = self.step
        self._generators.seed(self._ranks.rank)
        batch_size, num_samples = len(indices) + len(fillers), len(indices) or len(fillers)
        arguments, target = self._objective.batch(dataset, [*indices, *fillers])
        target = target[:num_samples] if batch_size > num_samples else target
        count = self._objective.count(target) if indices else self._tensor(0.0)
        # The ranks sum these values in the background while they compute the loss. Later in the step, they exchange
        # only gradients.
        shared = torch.cat([count.reshape(1), self._tensor([*flags, self.num_skipped_in_a_row > 0])])
        wait = self._ranks.begin_sum_(shared)
        sums: Tensor | None = None

        def compute_loss() -> Tensor:
            nonlocal sums
            if self._needs_closure:
                # The model draws the same dropout masks in every call, however many random numbers collate has drawn.
                self._generators.seed(-2 - self._ranks.rank)
            outputs = self._objective.forward(arguments)
            if batch_size > num_samples and modules.is_opaque(outputs):
                outputs = self._objective.forward(self._objective.batch(dataset, indices)[0])
            elif batch_size > num_samples:
                outputs = modules.map_tensors(
                    lambda output: output[:num_samples] if output.shape[:1] == (batch_size,) else output, outputs
                )
            loss = self._objective.loss(outputs, target)
            if sums is None:
                with torch.no_grad():
                    sums = (
                        self._objective.sums(outputs, target, loss, count)
                        if indices
                        else self._tensor([0.0] * self._objective.num_sums)
                    )
            return loss

        loss = self._update_weights.forward(compute_loss)
        assert sums is not None
        wait()
        total, *answers, num_skipped_before = shared.tolist()
        if num_skipped_before not in (0, self._ranks.world_size):
            raise Internal("RANKS_DIVERGED", f"some ranks skipped step {self.step} and others did not")
        combined = [answer > 0 for answer in answers]
        if self.on_flags:
            self.on_flags(combined)
        # This rank's weight in the mean. If all ranks' targets are ignored, each rank with samples has a weight of 1.
        share = float(count) / total if total else float(bool(indices))
        num_updates = self.step - self.num_skipped_steps
        moved = self._update_weights(compute_loss, loss, share, num_updates=num_updates, num_steps=self.num_steps)
        self.num_skipped_steps += not moved
        self.num_skipped_in_a_row = 0 if moved else self.num_skipped_in_a_row + 1
        self.step += 1
        if moved and not self._is_checked:
            checkpoints.check(self.state_dict())
            self._is_checked = True
        return sums if moved else torch.zeros_like(sums), combined

    def evaluate(self, dataset: Dataset, sampler: ResumableSampler) -> dict[str, float]:
        """Evaluates the model on this rank's batches. Returns the loss and the metrics over all ranks, by name."""
        self._ranks.share_buffers(self.model)
        return self.results(self._ranks.sum_(self._objective.evaluate(dataset, sampler)).tolist())

    def results(self, sums: Sequence[float]) -> dict[str, float]:
        """Returns the mean loss and the metrics by name, given their sums; an empty dict if there were no targets."""
        return self._objective.results(sums)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that a step changes, in the form that a checkpoint stores. Tensors are not copied.

        Raises:
            InvalidArgument: BAD_STATE if the names or shapes of the model's tensors have changed since the trainer was
                created.
        """
        model = checkpoints.model_state(self.model)
        before, now = self._shapes, _shapes(model["model"])
        for name in {**before, **now}:
            if before.get(name) != now.get(name):
                message = (
                    f"the shape of {name} was {before.get(name, 'absent')} when the trainer was created and is "
                    f"{now.get(name, 'absent')} now, so a new model could not load it; keep its shape, or register it "
                    "with persistent=False"
                )
                raise InvalidArgument("BAD_STATE", message, field="model")
        scaler = self._update_weights.scaler
        return {
            **model,
            **self._optimizer_state.state_dict(),
            "precision": self._precision,
            "scaler": scaler.state_dict() if scaler else None,
            "sampler": dict(self.position),
            "num_samples": self._num_samples,
            "step": self.step,
            "num_skipped_steps": self.num_skipped_steps,
            "num_skipped_in_a_row": self.num_skipped_in_a_row,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores only the weights, the optimizer's state and the loss scale. Momentum and learning rate stay.

        Raises:
            InvalidArgument: WRONG_MODEL or WRONG_OPTIMIZER if the state is that of another run.
        """
        momentum = momentum_of(self.optimizer)
        self._load(state)
        self.num_skipped_in_a_row = 0
        if momentum is not None:
            set_momentum(self.optimizer, momentum)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state returned by `state_dict`, which may come from an untrusted file.

        Raises:
            InvalidArgument: WRONG_MODEL, WRONG_OPTIMIZER or BAD_STATE if the state does not belong to this run.
        """
        sampler, num_samples = state.get("sampler"), state.get("num_samples")
        counts: list[Any] = [state.get(key) for key in ("step", "num_skipped_steps", "num_skipped_in_a_row")]
        counts += [sampler.get(key) for key in ("epoch", "position")] if isinstance(sampler, dict) else [None]
        if not isinstance(sampler, dict) or not all(type(number) is int and number >= 0 for number in counts):
            message = "the checkpoint does not record how far its run had got through the training data"
            raise InvalidArgument("BAD_STATE", message, field="sampler")
        if num_samples is not None and type(num_samples) is not int:
            message = f"the checkpoint's number of samples is {num_samples!r}; it must be a whole number"
            raise InvalidArgument("BAD_STATE", message, field="num_samples")
        if sampler.get("seed") != self._seed:
            message = (
                f"the checkpoint's run has the seed {sampler.get('seed')}, but this trainer has the seed "
                f"{self._seed}; create the trainer with the run's seed"
            )
            raise InvalidArgument("BAD_STATE", message, field="seed")
        self._load(state)
        self.step, self.num_skipped_steps, self.num_skipped_in_a_row = counts[:3]
        self.position, self._num_samples = sampler, num_samples

    def _load(self, state: Mapping[str, Any]) -> None:
        checkpoints.load_model(self.model, state)
        scaler = self._update_weights.scaler
        if scaler and state.get("scaler") is not None:
            scaler.load_state_dict(state["scaler"])
        self._optimizer_state.load_state_dict(state)

    def _tensor(self, values: float | Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self._device)


def _shapes(state: Mapping[str, Any]) -> dict[str, list[int]]:
    """Returns the shape of each tensor in a model's state, except extra state, which may have any form."""
    return {
        name: list(value.shape)
        for name, value in state.items()
        if isinstance(value, Tensor) and not name.endswith(EXTRA_STATE)
    }
