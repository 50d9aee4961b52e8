"""One training step, and all the state that it changes: what a checkpoint holds."""

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import FailedPrecondition, Internal, InvalidArgument
from deepseek.data.sampler import ResumableSampler
from deepseek.optim.factories import needs_closure
from deepseek.optim.interface import InterfaceAdapter
from deepseek.optim.state import OptimizerState, type_name
from deepseek.training import checkpoint as checkpoints
from deepseek.training import modules
from deepseek.training import precision as formats
from deepseek.training.batches import Arguments, Dataset, collate
from deepseek.training.losses import count_targets
from deepseek.training.metrics import Metric
from deepseek.training.parallel import Ranks
from deepseek.training.replica import Replica
from deepseek.training.schedules import Schedule
from deepseek.training.step_times import DTYPES
from deepseek.training.trees import EXTRA_STATE
from kernels.unscale import unscale

_ALL_RANKS = -1
MAX_SKIPPED_IN_A_ROW = 40
"""Steps that may be skipped one after another; from its first value, the loss scale is below 1e-7 by then."""


class _NotFiniteError(Exception):
    """Raised in a closure to end the optimizer's step."""


class TrainingStep:
    """Does steps; `MixedPrecisionTrainer` says what the arguments are.

    Attributes:
        model: The model.
        optimizer: The optimizer.
        step: Steps done, skipped ones included.
        num_steps: Steps of the whole run; the schedule's length.
        num_skipped_steps: Steps skipped.
        position: Where the sampler stood after the last step.
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
        scaler: formats.LossScaler | None,
        device: torch.device,
        seed: int,
        ranks: Ranks,
    ) -> None:
        if not 0 <= clip_norm < float("inf"):
            raise InvalidArgument("BAD_VALUE", f"clip_norm is {clip_norm}; it must be 0 or more", field="clip_norm")
        if not 0 <= seed < 1 << 63:
            raise InvalidArgument("BAD_VALUE", f"seed is {seed}; it must be from 0 to 2^63 - 1", field="seed")
        names = ["loss", *(metric.name for metric in metrics)]
        if len(set(names)) != len(names):
            raise InvalidArgument("BAD_VALUE", f"metrics repeat a name: {', '.join(names)}", field="metrics")
        self.model = model
        self.optimizer = optimizer
        self.step = 0
        self.num_steps = 0
        self.num_skipped_steps = 0
        self.position = {"seed": seed, "epoch": 0, "position": 0}
        self._num_samples: int | None = None
        self._num_skipped_in_a_row = 0
        self._given_scaler = scaler
        self._needs_closure = needs_closure(optimizer)
        self.use(precision)
        self._loss = loss
        self._schedule = schedule
        self._metrics = metrics
        self._arguments = arguments
        self._clip_norm = clip_norm
        self._device = device
        self._seed = seed
        self._ranks = ranks
        self._optimizer_state = OptimizerState(optimizer)
        self._base_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        self._num_sums = 2 + sum(metric.num_sums for metric in metrics)
        self._replica: Replica | None = None  # set while training
        self._is_checked = True  # whether the state, including the optimizer's, is known to be storable
        self._shapes = _shapes(modules.uncompiled(model).state_dict())

    @property
    def learning_rate(self) -> float:
        """Of the last step; the first parameter group's."""
        return float(self.optimizer.param_groups[0]["lr"])

    def use(self, precision: str) -> None:
        """Computes in `fp32`, `bf16` or `fp16` from now on, and resets the loss scale.

        Raises:
            InvalidArgument: BAD_VALUE for fp16 with an optimizer that needs a closure.
        """
        if precision == "fp16" and self._needs_closure:
            message = (
                f"{type(self.optimizer).__name__} evaluates the loss several times per step, which the loss scale of "
                "fp16 does not allow; use fp32 or bf16"
            )
            raise InvalidArgument("BAD_VALUE", message, field="precision")
        self._precision, self._dtype = precision, DTYPES[precision]
        self._scaler = (self._given_scaler or formats.LossScaler()) if precision == "fp16" else None

    def begin(self, sampler: ResumableSampler, num_samples: int, *, saves: bool) -> None:
        """Moves a new sampler, over so many samples, to where the run stands.

        Args:
            sampler: The sampler.
            num_samples: Samples of the data set.
            saves: Whether the state will be saved; if so, it is checked now and after the first update.

        Raises:
            InvalidArgument: BAD_VALUE if its data set is not the run's, or nothing can be trained; BAD_STATE if the
                state cannot be saved.
        """
        modules.check_trainable(self.model)
        if self._num_samples not in (None, num_samples):
            message = f"the run is on {self._num_samples} samples, this data set has {num_samples}"
            raise InvalidArgument("BAD_VALUE", message, field="dataset")
        self._num_samples = num_samples
        sampler.load_state(self.position)
        if saves:
            checkpoints.check(self.state_dict())
        self._is_checked = not saves
        if not self.model.training:
            self.model.train()
        self._replica = self._ranks.replicate(self.model)

    def end(self) -> None:
        """Lets go of what only training needs."""
        self._replica = None
        self._ranks.collect()

    def __call__(
        self, dataset: Dataset, indices: Sequence[int], fillers: Sequence[int], flags: Sequence[bool]
    ) -> tuple[Tensor, list[bool]]:
        """Does one step.

        Args:
            dataset: The data.
            indices: This rank's samples, maybe none.
            fillers: Further samples to pass through the model that do not count; not empty if `indices` is.
            flags: Questions that all ranks answer together.

        Returns:
            sums: Those of loss and metrics over this rank's samples (`results`), float64; zeros if it was skipped.
            flags: Each flag, True if it was so on any rank.

        Raises:
            InvalidArgument: The loss or the optimizer refuses its input; BAD_STATE if the state cannot be saved.
            FailedPrecondition: NOT_FINITE after 40 skipped steps in a row.
            Internal: RANKS_DIVERGED if one rank skipped the step before and another did not.
        """
        assert self._replica is not None
        self._seed_generators(self._ranks.rank)
        batch_size, num_samples = len(indices) + len(fillers), len(indices) or len(fillers)
        arguments, target = self._arguments.split(collate(dataset, [*indices, *fillers]), self._device)
        target = target[:num_samples] if batch_size > num_samples else target
        count = count_targets(self._loss, target).to(self._device, torch.float64) if indices else self._zeros(())
        # Under way while the rank computes: the one exchange of a step besides the gradients.
        shared = torch.cat([count.reshape(1), self._tensor([*flags, self._num_skipped_in_a_row > 0])])
        wait = self._ranks.begin_sum_(shared)
        sums: Tensor | None = None

        def compute_loss() -> Tensor:
            nonlocal sums
            if self._needs_closure:
                self._seed_generators(-2 - self._ranks.rank)  # the same dropout each time, not collate's numbers
            outputs = self._forward(self.model, arguments)
            if batch_size > num_samples and modules.is_opaque(outputs):
                outputs = self._forward(self.model, self._arguments.split(collate(dataset, indices), self._device)[0])
            elif batch_size > num_samples:
                outputs = modules.map_tensors(
                    lambda output: output[:num_samples] if output.shape[:1] == (batch_size,) else output, outputs
                )
            loss = self._loss_of(outputs, target)
            if sums is None:
                with torch.no_grad():
                    sums = self._sums(outputs, target, loss, count) if indices else self._zeros((self._num_sums,))
            return loss

        loss = self._replica.forward(compute_loss)
        assert sums is not None
        wait()
        total, *answers, num_skipped_before = shared.tolist()
        if num_skipped_before not in (0, self._ranks.world_size):
            raise Internal("RANKS_DIVERGED", f"the ranks do not agree whether step {self.step} was skipped")
        # This rank's weight in the mean; if no target counts at all, only ranks with samples take part.
        share = float(count) / total if total else float(bool(indices))
        moved = self._differentiate(loss, share) and self._update(compute_loss, loss, share)
        if self._scaler:
            self._scaler.update(not moved)
        self.num_skipped_steps += not moved
        self._num_skipped_in_a_row = 0 if moved else self._num_skipped_in_a_row + 1
        self.step += 1
        if self._num_skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
            message = (
                f"the gradients of {MAX_SKIPPED_IN_A_ROW} steps in a row up to step {self.step} are not finite: "
                "look for NaN in the data or the loss, lower the learning rate, or set clip_norm"
            )
            raise FailedPrecondition("NOT_FINITE", message)
        if moved and not self._is_checked:
            checkpoints.check(self.state_dict())
            self._is_checked = True
        return sums if moved else torch.zeros_like(sums), [answer > 0 for answer in answers]

    def evaluate(self, dataset: Dataset, sampler: ResumableSampler) -> dict[str, float]:
        """Computes loss and metrics over this rank's batches, and sums them over the ranks."""
        self._ranks.share_buffers(self.model)
        sums = self._zeros((self._num_sums,))
        # Not inference mode: tensors that a module caches in it (position tables) could not be used in training later.
        with modules.evaluating(self.model), torch.no_grad():
            for indices in sampler:
                if indices:
                    arguments, target = self._arguments.split(collate(dataset, indices), self._device)
                    outputs = self._forward(self.model, arguments)
                    loss = self._loss_of(outputs, target)
                    sums += self._sums(outputs, target, loss, count_targets(self._loss, target))
        return self.results(self._ranks.sum_(sums).tolist())

    def results(self, sums: Sequence[float]) -> dict[str, float]:
        """Makes figures of sums: `loss` and each metric; nothing where no target was seen."""
        if not sums[1]:
            return {}
        figures = {"loss": sums[0] / sums[1]}
        start = 2
        for metric in self._metrics:
            figures[metric.name] = metric.result(sums[start : start + metric.num_sums])
            start += metric.num_sums
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that a step changes, as `deepseek.training.checkpoint` stores it; not copied.

        Raises:
            InvalidArgument: BAD_STATE if a tensor of the model has changed its shape since the beginning.
        """
        model = checkpoints.model_state(self.model)
        before, now = self._shapes, _shapes(model["model"])
        for name in {**before, **now}:
            if before.get(name) != now.get(name):
                message = (
                    f"{name} was {before.get(name, 'absent')} at the beginning and is {now.get(name, 'absent')} now, "
                    "which a new model could not load; keep its shape, or register it with persistent=False"
                )
                raise InvalidArgument("BAD_STATE", message, field="model")
        return {
            **model,
            **self._optimizer_state.state_dict(),
            "precision": self._precision,
            "scaler": self._scaler.state_dict() if self._scaler else None,
            "sampler": dict(self.position),
            "num_samples": self._num_samples,
            "step": self.step,
            "num_skipped_steps": self.num_skipped_steps,
            "num_skipped_in_a_row": self._num_skipped_in_a_row,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` returned, from anyone.

        Raises:
            InvalidArgument: WRONG_MODEL, WRONG_OPTIMIZER, BAD_STATE.
        """
        sampler, num_samples = state.get("sampler"), state.get("num_samples")
        counts: list[Any] = [state.get(key) for key in ("step", "num_skipped_steps", "num_skipped_in_a_row")]
        counts += [sampler.get(key) for key in ("epoch", "position")] if isinstance(sampler, dict) else [None]
        if not isinstance(sampler, dict) or not all(type(number) is int and number >= 0 for number in counts):
            raise InvalidArgument("BAD_STATE", "the checkpoint does not say where its run stands", field="sampler")
        if num_samples is not None and type(num_samples) is not int:
            raise InvalidArgument("BAD_STATE", "the checkpoint's number of samples is none", field="num_samples")
        if sampler.get("seed") != self._seed:
            message = f"the checkpoint's run has seed {sampler.get('seed')}, this trainer {self._seed}"
            raise InvalidArgument("BAD_STATE", message, field="seed")
        checkpoints.load_model(self.model, state)
        if self._scaler and state.get("scaler") is not None:
            self._scaler.load_state_dict(state["scaler"])
        self._optimizer_state.load_state_dict(state)
        self.step, self.num_skipped_steps, self._num_skipped_in_a_row = counts[:3]
        self.position, self._num_samples = sampler, num_samples

    def _forward(self, module: nn.Module, arguments: Mapping[str, Any]) -> Any:
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            outputs = module(**arguments)
        # Out of autocast: on a CPU it would keep softmax and sums in low precision.
        return modules.map_tensors(lambda output: output.float() if output.is_floating_point() else output, outputs)

    def _loss_of(self, outputs: Any, target: Any) -> Tensor:
        loss = self._loss(outputs, target)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            what = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise InvalidArgument("BAD_VALUE", f"the loss must be a tensor of one number, not {what}", field="loss")
        return loss.reshape(())

    def _sums(self, outputs: Any, target: Any, loss: Tensor, count: Tensor) -> Tensor:
        count = count.to(self._device, torch.float64)
        # A batch without targets adds nothing, whatever a loss makes of it.
        total = torch.where(count > 0, loss.detach() * count, 0.0)
        own = torch.stack([total, count])
        outputs = modules.map_tensors(Tensor.detach, outputs)
        return torch.cat([own, *(metric.sums(outputs, target).to(own) for metric in self._metrics)])

    def _gradients(self) -> list[Tensor]:
        gradients = []
        for group in self.optimizer.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    if param.grad.is_sparse:
                        param.grad = param.grad.coalesce()
                    gradients.append(param.grad._values() if param.grad.is_sparse else param.grad)
        return gradients

    def _differentiate(self, loss: Tensor, share: float) -> bool:
        """Computes the gradients, unscaled and clipped; returns whether they are finite.

        Raises:
            InvalidArgument: BAD_VALUE if no rank's loss depends on a parameter.
        """
        assert self._replica is not None
        if not self._replica.backward(loss * self._scaler.scale if self._scaler else loss, share):
            message = "the loss does not depend on any parameter that requires a gradient"
            raise InvalidArgument("BAD_VALUE", message, field="loss")
        gradients = self._gradients()
        # The sum over the ranks is the same on every rank and carries Inf and NaN of any rank to all, so found_inf is
        # the OR over the ranks already; the next step checks that they agree.
        found_inf, norm = unscale(gradients, self._scaler.inverse if self._scaler else 1.0)
        if found_inf:
            return False
        if self._clip_norm:
            torch._foreach_mul_(gradients, (self._clip_norm / (norm + 1e-6)).clamp(max=1.0))
        return True

    def _update(self, compute_loss: Callable[[], Tensor], loss: Tensor, share: float) -> bool:
        """Updates the weights; returns False if gradients that are not finite occurred."""
        rate = self._schedule(self.step - self.num_skipped_steps, self.num_steps)
        for group, base_lr in zip(self.optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = base_lr * rate
        # An optimizer that draws random numbers draws the same on every rank, or the weights would drift apart.
        self._seed_generators(_ALL_RANKS)
        try:
            if self._needs_closure:
                return self._update_by_closure(compute_loss, loss, share)
            self.optimizer.step()
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            if self.step > self.num_skipped_steps or isinstance(self.optimizer, InterfaceAdapter):
                raise
            message = f"{type_name(self.optimizer)} cannot update this model: {error}"
            raise InvalidArgument("BAD_VALUE", message, field="optimizer") from error
        return True

    def _update_by_closure(self, compute_loss: Callable[[], Tensor], loss: Tensor, share: float) -> bool:
        """Calls an optimizer that evaluates loss and gradients at several weights.

        Its closure returns the mean loss over all ranks and computes the averaged, clipped gradients, with the dropout
        of this step. If any are not finite, the weights are restored and the optimizer's history is discarded.
        """
        starts = [
            (param, param.detach().clone(), param.grad)
            for group in self.optimizer.param_groups
            for param in group["params"]
        ]
        value = self._mean_over_ranks(loss, share)

        @torch.enable_grad()
        def closure() -> Tensor:
            nonlocal value
            if any(param.grad is not grad or not torch.equal(param, start) for param, start, grad in starts):
                assert self._replica is not None
                loss = self._replica.forward(compute_loss)
                if not self._differentiate(loss, share):
                    raise _NotFiniteError
                value = self._mean_over_ranks(loss, share)
                self._seed_generators(_ALL_RANKS)
            return value

        try:
            self.optimizer.step(closure)  # type: ignore[arg-type]  # annotated with float; torch's own take tensors
        except _NotFiniteError:
            with torch.no_grad():
                for param, start, _ in starts:
                    param.copy_(start)
            self.optimizer.state.clear()
            return False
        return True

    def _mean_over_ranks(self, loss: Tensor, share: float) -> Tensor:
        if self._ranks.world_size == 1:
            return loss.detach()
        return self._ranks.sum_(loss.detach() * share if share else torch.zeros_like(loss))

    def _seed_generators(self, rank: int) -> None:
        digest = hashlib.blake2b(struct.pack("<qqq", self._seed, self.step, rank), digest_size=8).digest()
        number = int.from_bytes(digest, "little")
        # Not torch.manual_seed: it keeps a stack trace for every kind of device that is not there, 0.5 ms a call.
        torch.default_generator.manual_seed(number)
        if self._device.type == "cuda":
            torch.cuda.manual_seed(number)

    def _zeros(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self._device)

    def _tensor(self, values: Sequence[bool]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self._device)


def _shapes(state: Mapping[str, Any]) -> dict[str, list[int]]:
    """The shapes of a model's tensors, without extra state, which may have any form."""
    return {
        name: list(value.shape)
        for name, value in state.items()
        if isinstance(value, Tensor) and not name.endswith(EXTRA_STATE)
    }
