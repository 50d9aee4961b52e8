"""DP-SGD (Abadi et al. 2016, arXiv:1607.00133, algorithm 1): training that reveals little about any one example.

Each step draws a Poisson sample of the data, clips the gradient of each example, adds Gaussian noise to their sum and
divides it by a public constant. The gradient of an example is that of a batch of one (`torch.func.vmap`), so it depends
on no other example, regardless of what the model and the loss average over. Opacus's hooks do not guarantee this: they
miss weights that a model uses outside of their module, and losses divide by the number of targets in the batch.
Opacus's validator finds modules that mix examples. Sampling and noise use the operating system's random generator.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.linalg import vector_norm
from torch.nn.attention import SDPBackend, sdpa_kernel

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.data.sampler import ResumableSampler
from deepseek.optim.factories import needs_closure
from deepseek.optim.state import type_name
from deepseek.privacy.noise import gaussian_noise
from deepseek.privacy.norms import MAX_SUMMANDS, grid_of
from deepseek.privacy.sampling import RandomBytes, poisson_sample
from deepseek.training import modules
from deepseek.training.batches import Dataset
from deepseek.training.dp_settings import DpSgd, steps_per_epoch
from deepseek.training.replica import Replica
from deepseek.training.step import TrainingStep

_CHUNK_BYTES = 128 << 20
_MAX_CHUNK = 256
_PART_VALUES = 1 << 17
"""Number of float64 values that are clipped at a time; they fit into the processor's cache."""
_MARGIN = 1 - 1e-8
"""Keeps a clipped gradient within the norm in spite of rounding errors of a float64 norm of up to 2^25 values."""


class PoissonSampler(ResumableSampler):
    """A sampler that draws each example independently, with the same probability in each step. Not thread-safe.

    An epoch has 1 / rate steps, rounded up, so the number of steps does not depend on the data. A restored sampler
    draws new samples.

    Args:
        num_samples: Number of examples.
        rate: Probability of an example.
        source: Source of randomness; the operating system's by default. Others are for tests.
        seed: Seed of the run, which the state contains; samples do not depend on it.
    """

    def __init__(self, num_samples: int, rate: float, *, source: RandomBytes | None = None, seed: int = 0) -> None:
        super().__init__(num_samples, 1, seed=seed)
        self._rate = rate
        self._source = source
        self._step = 0

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self._rate)

    def __len__(self) -> int:
        return self.steps_per_epoch - self._step

    def __iter__(self) -> Iterator[list[int]]:
        while self._step < self.steps_per_epoch:
            self._step += 1
            self.position = self.num_samples * self._step // self.steps_per_epoch
            yield list(poisson_sample(range(self.num_samples), self._rate, self._source))
        self.epoch += 1
        self.position = self._step = 0

    def state(self) -> dict[str, int]:
        return {**super().state(), "step": self._step}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores a saved state, as documented for `ResumableSampler`; `step` is the step in the epoch.

        In states of earlier releases, which have no step, several steps may have the same position. The last of them
        counts, so that no more steps are made than were debited.
        """
        super().load_state({name: value for name, value in state.items() if name != "step"})
        last = min(((self.position + 1) * self.steps_per_epoch - 1) // self.num_samples, self.steps_per_epoch)
        step = state.get("step", last)
        if (
            type(step) is not int
            or step > self.steps_per_epoch
            or self.num_samples * step // self.steps_per_epoch != self.position
        ):
            message = f"the state is at step {str(step)[:80]}, which does not fit its position {self.position}"
            raise InvalidArgument("BAD_STATE", message, field="step")
        self._step = step


class PrivateReplica(Replica):
    """Collects clipped gradients of examples, and turns their sum into a private gradient.

    Args:
        model: The model.
        settings: Settings of DP-SGD.
        proximal_mu: Weight of FedProx's term, which does not depend on the data; see `ProximalReplica`.
        source: Source of the noise; the operating system's by default. Others are for tests.
    """

    def __init__(
        self, model: nn.Module, settings: DpSgd, proximal_mu: float = 0.0, source: RandomBytes | None = None
    ) -> None:
        super().__init__(model)
        self._settings = settings
        self._mu = proximal_mu
        self._source = source
        self.params = {name: param for name, param in model.named_parameters() if param.requires_grad}
        self._starts = {name: param.detach().clone() for name, param in self.params.items() if proximal_mu}
        self._grid = grid_of(settings.max_grad_norm)
        num_values = sum(param.numel() for param in self.params.values())
        # Rounding moves each value by at most half the distance of the grid.
        self._bound = settings.max_grad_norm * _MARGIN - math.sqrt(num_values) * self._grid / 2
        self._sums: dict[str, Tensor] = {}  # whole multiples of the grid
        self._num_examples = 0

    def add(self, gradients: Mapping[str, Tensor]) -> None:
        """Clips gradients of examples, each [B, *shape of the parameter], and adds them to the sum.

        Clipped values are rounded to multiples of `grid_of`, so that sums are exact and do not depend on the order of
        the examples. A gradient with a value that is not finite counts as zero, because NaN passes through any scaling.
        """
        norms_PB = [
            torch.cat([vector_norm(part.double(), dim=1) for part in _parts(one)]) for one in gradients.values()
        ]
        norm_B = torch.stack(norms_PB).square().sum(0).sqrt()
        is_finite_B = norm_B.isfinite()
        are_finite = bool(is_finite_B.all())
        scale_B = (self._bound / norm_B).clamp(max=1.0) / self._grid
        self._num_examples += len(norm_B)
        assert self._num_examples <= MAX_SUMMANDS, "sums of more gradients would not be exact"
        for name, gradient in gradients.items():
            total_D = self._sums.setdefault(name, gradient.new_zeros(gradient[0].numel(), dtype=torch.float64))
            start = 0
            for part_BD in _parts(gradient):
                part_B = slice(start, start := start + len(part_BD))
                multiples_BD = part_BD.double().mul_(scale_B[part_B, None]).round_()
                total_D += (multiples_BD if are_finite else multiples_BD[is_finite_B[part_B]]).sum(0)

    @torch.no_grad()
    def backward(self, loss: Tensor, share: float) -> bool:
        """Sets the parameters' gradients to the noisy sum divided by the expected batch size."""
        deviation = self._settings.noise_multiplier * self._settings.max_grad_norm
        for name, param in self.params.items():
            noise = torch.from_numpy(gaussian_noise(param.shape, deviation, self._source)).to(param.device)
            total = self._sums[name].view(param.shape) * self._grid + noise if name in self._sums else noise
            param.grad = (total / self._settings.expected_batch_size).to(param.dtype)
            if self._mu:
                param.grad.add_(param - self._starts[name], alpha=self._mu)
        self._sums, self._num_examples = {}, 0
        return True


class PrivateStep(TrainingStep):
    """Executes steps of DP-SGD. `TrainingStep` documents the other arguments.

    The figures of a step are computed from its sample, without noise. Only the owner of the data may see them.

    Args:
        dp_sgd: Settings of DP-SGD.
        source: Source of the noise; the operating system's by default. Others are for tests.

    Raises:
        FailedPrecondition: NOT_PRIVATE_MODEL or NOT_PRIVATE_OPTIMIZER, with the remedy.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        precision: str,
        *,
        dp_sgd: DpSgd,
        source: RandomBytes | None = None,
        **options: Any,
    ) -> None:
        check_private(model, optimizer, precision)
        super().__init__(model, optimizer, precision, **options)
        self._dp_sgd = dp_sgd
        self._source = source
        self.position = {**self.position, "step": 0}
        num_values = sum(param.numel() for param in model.parameters() if param.requires_grad)
        self._chunk = min(_MAX_CHUNK, max(1, _CHUNK_BYTES // (4 * max(1, num_values))))

    def begin(self, sampler: ResumableSampler, num_samples: int, *, saves: bool) -> None:
        """Prepares for training, as documented for `TrainingStep`; BAD_VALUE also if sums would not be exact."""
        if num_samples * self._dp_sgd.sampling_rate > MAX_SUMMANDS / 2:
            message = (
                f"a step would use more than {MAX_SUMMANDS // 2} examples, so that sums of gradients would not be "
                "exact; use a lower sampling rate"
            )
            raise InvalidArgument("BAD_VALUE", message, field="dp_sgd.sampling_rate")
        super().begin(sampler, num_samples, saves=saves)

    def make_replica(self) -> Replica:
        return PrivateReplica(self.model, self._dp_sgd, self._proximal_mu, self._source)

    def __call__(
        self, dataset: Dataset, indices: Sequence[int], fillers: Sequence[int], flags: Sequence[bool]
    ) -> tuple[Tensor, list[bool]]:
        """Executes one step, as documented for `TrainingStep`. A sample without examples adds noise only."""
        replica = self._update_weights.replica
        assert isinstance(replica, PrivateReplica), "begin must be called first"
        self._generators.step = self.step
        self._generators.seed(self._ranks.rank)
        sums = self._tensor([0.0] * self._objective.num_sums)

        def collect() -> Tensor:
            # Large samples are divided, because the gradients of all of their examples may not fit into memory.
            for start in range(0, len(indices), self._chunk):
                arguments, target = self._objective.batch(dataset, indices[start : start + self._chunk])
                gradients, outputs = self._gradients(replica, arguments, target)
                replica.add(gradients)
                with torch.no_grad():
                    loss = self._objective.loss(outputs, target)
                    sums.add_(self._objective.sums(outputs, target, loss, self._objective.count(target)))
            return self._tensor(0.0)

        loss = self._update_weights.forward(collect)
        self._update_weights(collect, loss, 1.0, num_updates=self.step, num_steps=self.num_steps)
        self.step += 1
        return sums, list(flags)

    def _gradients(
        self, replica: PrivateReplica, arguments: Mapping[str, Any], target: Any
    ) -> tuple[dict[str, Tensor], Any]:
        """Returns the gradients of the loss of each example, by parameter, and the outputs of the batch."""
        model = modules.uncompiled(self.model)

        def loss_of_one(params: dict[str, Tensor], one: dict[str, Any], own: Any) -> tuple[Tensor, Any]:
            batch = {name: value.unsqueeze(0) for name, value in one.items()}
            outputs = self._objective.forward(batch, lambda **given: functional_call(model, params, (), given))
            return self._objective.loss(outputs, own.unsqueeze(0)), outputs

        params = {name: param.detach() for name, param in replica.params.items()}
        compute = vmap(grad(loss_of_one, has_aux=True), in_dims=(None, 0, 0), randomness="different")
        try:
            # Fused attention cannot be vectorized over examples; the mathematical form can.
            with sdpa_kernel(SDPBackend.MATH):
                gradients, outputs = compute(params, dict(arguments), target)
        except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError) as error:
            message = (
                f"the gradients of single examples cannot be computed for this model: {str(error)[:300]}. If a module "
                "keeps statistics of its batches, put it into evaluation mode, with statistics of data that is not "
                "private"
            )
            raise FailedPrecondition("NOT_PRIVATE_MODEL", message, field="model") from error
        return gradients, modules.map_tensors(lambda output: output.flatten(0, 1), outputs)


def _parts(gradient: Tensor) -> Sequence[Tensor]:
    """Divides gradients of examples into parts [B, D] that fit into the cache of a processor."""
    flat_BD = gradient.flatten(1)
    num_examples = max(1, _PART_VALUES // max(1, flat_BD.shape[1]))
    return [flat_BD[start : start + num_examples] for start in range(0, len(flat_BD), num_examples)]


def check_private(model: nn.Module, optimizer: torch.optim.Optimizer, precision: str) -> None:
    """Checks that DP-SGD can train a model.

    Raises:
        FailedPrecondition: NOT_PRIVATE_MODEL if a module mixes the examples of a batch, as batch normalization does;
            NOT_PRIVATE_OPTIMIZER if the optimizer computes several gradients per step; NOT_PRIVATE_PRECISION for fp16.
    """
    # Slow to import, and needed only here.
    from opacus.validators import ModuleValidator  # type: ignore[import-untyped]

    for name, module in model.named_modules():
        if not module.training or list(module.children()):
            continue
        is_batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if is_batch_norm or ModuleValidator.validate(module):
            message = (
                f"{name or 'the model'} is a {type(module).__name__}, which Opacus does not accept: the output for an "
                'example must not depend on other examples. Use group normalization, e.g. the parameter norm="group"'
                if is_batch_norm or isinstance(module, nn.modules.batchnorm._NormBase)
                else f"{name or 'the model'} is a {type(module).__name__}, which Opacus does not accept; use layers "
                "without it, e.g. those of opacus.layers"
            )
            raise FailedPrecondition("NOT_PRIVATE_MODEL", message, field="model")
    if needs_closure(optimizer):
        message = (
            f"{type_name(optimizer)} computes several gradients per step, of which each would need noise of its own; "
            "use an optimizer with one gradient per step, e.g. sgd or adam"
        )
        raise FailedPrecondition("NOT_PRIVATE_OPTIMIZER", message, field="optimizer")
    if precision == "fp16":
        message = "gradients of single examples are not scaled, so they vanish in fp16; use fp32 or bf16"
        raise FailedPrecondition("NOT_PRIVATE_PRECISION", message, field="precision")
