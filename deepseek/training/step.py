"""One training step, and all the state that it changes: what a checkpoint holds."""

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from common.errors import FailedPrecondition, Internal, InvalidArgument
from deepseek.data.sampler import ResumableSampler
from deepseek.training import checkpoint as checkpoints
from deepseek.training import precision as formats
from deepseek.training.batches import Arguments, Dataset, collate
from deepseek.training.losses import count_targets
from deepseek.training.metrics import Metric
from deepseek.training.parallel import Ranks
from deepseek.training.schedules import Schedule
from deepseek.training.step_times import DTYPES
from kernels.unscale import unscale

MAX_SKIPPED_IN_A_ROW = 40
"""Steps that may be skipped one after another; from its first value, the loss scale is below 1e-7 by then."""
_ALL_RANKS = -1
_SHAPED_LIKE_PARAMS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


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
        halves = [name for name, p in model.named_parameters() if p.dtype in (torch.float16, torch.bfloat16)]
        if halves:
            message = f"{halves[0]} is in half precision; weights must be float32, the precision is the computation's"
            raise InvalidArgument("BAD_VALUE", message, field="model")
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
        self.use(precision)
        self._loss = loss
        self._schedule = schedule
        self._metrics = metrics
        self._arguments = arguments
        self._clip_norm = clip_norm
        self._device = device
        self._seed = seed
        self._ranks = ranks
        self._base_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        self._num_sums = 2 + sum(metric.num_sums for metric in metrics)
        self._module: nn.Module | None = None  # the model with DDP around it, while it trains

    @property
    def learning_rate(self) -> float:
        """Of the last step; the first parameter group's."""
        return float(self.optimizer.param_groups[0]["lr"])

    def use(self, precision: str) -> None:
        """Computes in `fp32`, `bf16` or `fp16` from now on; the loss scale begins anew."""
        self._precision, self._dtype = precision, DTYPES[precision]
        self._scaler = (self._given_scaler or formats.LossScaler()) if precision == "fp16" else None

    def begin(self, sampler: ResumableSampler, num_samples: int) -> None:
        """Moves a new sampler, over so many samples, to where the run stands.

        Raises:
            InvalidArgument: BAD_VALUE if its data set is not the run's.
        """
        if self._num_samples not in (None, num_samples):
            message = f"the run is on {self._num_samples} samples, this data set has {num_samples}"
            raise InvalidArgument("BAD_VALUE", message, field="dataset")
        self._num_samples = num_samples
        sampler.load_state(self.position)
        self._module = self._ranks.wrap(self.model)

    def end(self) -> None:
        """Lets go of what only training needs."""
        self._module = None
        self._ranks.collect()

    def __call__(
        self, dataset: Dataset, indices: Sequence[int], fillers: Sequence[int], flags: Sequence[bool]
    ) -> tuple[Tensor, list[bool]]:
        """Does one step.

        Args:
            dataset: The data.
            indices: This rank's samples, maybe none.
            fillers: Samples to pass through the model besides, which count for nothing; not empty if `indices` is.
            flags: Questions that all ranks answer together.

        Returns:
            sums: Those of loss and metrics over this rank's samples (`results`), float64; zeros if it was skipped.
            flags: Each flag, True if it was so on any rank.

        Raises:
            FailedPrecondition: NOT_FINITE after 40 skipped steps in a row.
            Internal: RANKS_DIVERGED if one rank skipped the step before and another did not.
        """
        assert self._module is not None
        self._seed_generators(self._ranks.rank)
        num_samples = len(indices)
        arguments, target = self._arguments.split(collate(dataset, [*indices, *fillers]), self._device)
        target = target[:num_samples] if fillers else target
        count = count_targets(self._loss, target).to(self._device, torch.float64) if indices else self._zeros(())
        # Under way while the rank computes: the one exchange of a step besides the gradients.
        shared = torch.cat([count.reshape(1), self._tensor([*flags, self._num_skipped_in_a_row > 0])])
        wait = self._ranks.begin_sum_(shared)
        outputs = self._forward(self._module, arguments)
        if indices:
            outputs = tree_map_only(Tensor, lambda output: output[:num_samples], outputs) if fillers else outputs
            loss = self._loss(outputs, target)
            with torch.no_grad():
                sums = self._sums(outputs, target, loss, count)
        else:
            parts = [output for output in tree_leaves(outputs) if isinstance(output, Tensor) and output.requires_grad]
            loss = torch.stack([part.sum() for part in parts]).sum() * 0.0
            sums = self._zeros((self._num_sums,))
        wait()
        total, *answers, num_skipped_before = shared.tolist()
        if num_skipped_before not in (0, self._ranks.world_size):
            raise Internal("RANKS_DIVERGED", f"the ranks do not agree whether step {self.step} was skipped")
        # DDP divides the sum of the ranks' gradients by their number; what is wanted is the mean over all targets.
        weight = 1.0 if self._ranks.world_size == 1 else self._ranks.world_size * float(count) / max(1.0, total)
        factor = weight * (self._scaler.scale if self._scaler else 1.0)
        self.model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss if factor == 1.0 else loss * factor)
        gradients = self._gradients()
        # DDP's sum is the same on every rank and carries Inf and NaN of any rank to all, so found_inf is the OR over
        # the ranks already; the next step checks that they agree.
        found_inf, norm = unscale(gradients, self._scaler.inverse if self._scaler else 1.0)
        skip = bool(found_inf)
        if skip:
            self.num_skipped_steps += 1
            self._num_skipped_in_a_row += 1
        else:
            self._update(gradients, norm)
            self._num_skipped_in_a_row = 0
        if self._scaler:
            self._scaler.update(skip)
        self.step += 1
        if self._num_skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
            message = (
                f"the gradients of {MAX_SKIPPED_IN_A_ROW} steps in a row up to step {self.step} are not finite: "
                "look for NaN in the data or the loss, lower the learning rate, or set clip_norm"
            )
            raise FailedPrecondition("NOT_FINITE", message)
        return torch.zeros_like(sums) if skip else sums, [answer > 0 for answer in answers]

    def evaluate(self, dataset: Dataset, sampler: ResumableSampler) -> dict[str, float]:
        """Computes loss and metrics over this rank's batches, and sums them over the ranks."""
        self._ranks.share_buffers(self.model)
        was_training = self.model.training
        self.model.eval()
        sums = self._zeros((self._num_sums,))
        try:
            with torch.inference_mode():
                for indices in sampler:
                    if indices:
                        arguments, target = self._arguments.split(collate(dataset, indices), self._device)
                        outputs = self._forward(self.model, arguments)
                        loss = self._loss(outputs, target)
                        sums += self._sums(outputs, target, loss, count_targets(self._loss, target))
        finally:
            self.model.train(was_training)
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
        """Returns everything that a step changes, as `deepseek.training.checkpoint` stores it; not copied."""
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "optimizer_type": _type_name(self.optimizer),
            "optimizer_defaults": _plain(self.optimizer.defaults),
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
        checkpoints.check_model(self.model, state)
        if self._scaler and state.get("scaler") is not None:
            self._scaler.load_state_dict(state["scaler"])
        self._load_optimizer(state)
        self.model.load_state_dict(state["model"])
        self.step, self.num_skipped_steps, self._num_skipped_in_a_row = counts[:3]
        self.position, self._num_samples = sampler, num_samples

    def _forward(self, module: nn.Module, arguments: Mapping[str, Any]) -> Any:
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            outputs = module(**arguments)
        # Out of autocast: on a CPU it would keep softmax and sums in low precision.
        return tree_map_only(Tensor, lambda output: output.float() if output.is_floating_point() else output, outputs)

    def _sums(self, outputs: Any, target: Any, loss: Tensor, count: Tensor) -> Tensor:
        count = count.to(self._device, torch.float64)
        # A batch without targets adds nothing, whatever a loss makes of it.
        total = torch.where(count > 0, loss.detach() * count, 0.0)
        own = torch.stack([total, count])
        outputs = tree_map_only(Tensor, Tensor.detach, outputs)
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

    def _update(self, gradients: Sequence[Tensor], norm: Tensor) -> None:
        if self._clip_norm:
            factor = (self._clip_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(list(gradients), factor)
        rate = self._schedule(self.step - self.num_skipped_steps, self.num_steps)
        for group, base_lr in zip(self.optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = base_lr * rate
        # An optimizer that draws random numbers draws the same on every rank, or the weights would drift apart.
        self._seed_generators(_ALL_RANKS)
        self.optimizer.step()

    def _seed_generators(self, rank: int) -> None:
        digest = hashlib.blake2b(struct.pack("<qqq", self._seed, self.step, rank), digest_size=8).digest()
        number = int.from_bytes(digest, "little")
        # Not torch.manual_seed: it keeps a stack trace for every kind of device that is not there, 0.5 ms a call.
        torch.default_generator.manual_seed(number)
        if self._device.type == "cuda":
            torch.cuda.manual_seed(number)

    def _load_optimizer(self, state: Mapping[str, Any]) -> None:
        own, other = _type_name(self.optimizer), state.get("optimizer_type")
        if own != other or not isinstance(state.get("optimizer"), dict):
            message = f"the checkpoint's optimizer is {str(other)[:80]}, this trainer's {own}"
            raise InvalidArgument("WRONG_OPTIMIZER", message, field="optimizer")
        before = [dict(group) for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"the checkpoint's optimizer state is not of these parameters: {error}"
            raise InvalidArgument("WRONG_OPTIMIZER", message, field="optimizer") from error
        if isinstance(self.optimizer, _SHAPED_LIKE_PARAMS):  # their fused kernels take the shapes for granted
            for param, values in self.optimizer.state.items():
                for name, value in values.items():
                    shape = torch.Size() if name == "step" else param.shape
                    if isinstance(value, Tensor) and value.shape != shape:
                        message = f"the checkpoint's {name} is {list(value.shape)}, which should be {list(shape)}"
                        raise InvalidArgument("WRONG_OPTIMIZER", message, field="optimizer")
        # What this trainer was told and the checkpoint's was not: the trainer's word holds. The rest is the run's.
        saved, defaults = state.get("optimizer_defaults"), _plain(self.optimizer.defaults)
        changed = [key for key in defaults if not isinstance(saved, dict) or saved.get(key) != defaults[key]]
        for group, old in zip(self.optimizer.param_groups, before, strict=True):
            group.update({key: old[key] for key in changed if key in old})
            for key, value in group.items():
                if key not in old or _kind(value) != _kind(old[key]):
                    message = f"the checkpoint's {key[:80]} is {str(value)[:80]}, this trainer's {old.get(key)}"
                    raise InvalidArgument("WRONG_OPTIMIZER", message, field="optimizer")

    def _zeros(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self._device)

    def _tensor(self, values: Sequence[bool]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self._device)


def _type_name(optimizer: torch.optim.Optimizer) -> str:
    kind = type(getattr(optimizer, "inner", optimizer))
    return f"{kind.__module__}.{kind.__qualname__}"


def _plain(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor arguments of an optimizer, comparable after a way through JSON."""
    simple = (bool, int, float, str, type(None))
    return {key: value if isinstance(value, simple) else repr(value) for key, value in defaults.items()}


def _kind(value: Any) -> type:
    """The type of a hyperparameter; a whole number is as good as another."""
    return float if type(value) is int else type(value)
