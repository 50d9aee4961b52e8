"""Updates a model's weights: computes, unscales and clips the gradients, then calls the optimizer."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from common.errors import InvalidArgument
from deepseek.optim.factories import needs_closure
from deepseek.optim.interface import InterfaceAdapter
from deepseek.optim.state import type_name
from deepseek.training.generators import ALL_RANKS, StepGenerators
from deepseek.training.parallel import Ranks
from deepseek.training.precision import LossScaler
from deepseek.training.replica import Replica
from deepseek.training.schedules import Schedule
from kernels.unscale import unscale


class _NotFiniteError(Exception):
    """Raised in a closure to end the optimizer's step if a gradient is not finite."""


class WeightUpdate:
    """Updates a model's weights with an optimizer.

    Args:
        optimizer: The optimizer.
        schedule: Schedule of the learning rate.
        clip_norm: Maximum global norm of the gradients; 0 for no limit.
        ranks: The processes that train together.
        generators: Random number generators to seed before each call of the optimizer.

    Attributes:
        replica: Replica that computes the gradients; None outside training.
        scaler: Loss scaler; None for formats that need none.
        rate: Learning rate of the first parameter group, in place of the schedule's; None to follow the schedule. The
            rates of other groups change in proportion.
        gradient_norm: Global norm of the gradients of the most recent step, before clipping; NaN before the first.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        schedule: Schedule,
        clip_norm: float,
        ranks: Ranks,
        generators: StepGenerators,
    ) -> None:
        if not 0 <= clip_norm < float("inf"):
            message = f"clip_norm is {clip_norm}; it must be finite and at least 0"
            raise InvalidArgument("BAD_VALUE", message, field="clip_norm")
        self.replica: Replica | None = None
        self.scaler: LossScaler | None = None
        self.rate: float | None = None
        self.gradient_norm: float | Tensor = math.nan
        self._optimizer = optimizer
        self._schedule = schedule
        self._clip_norm = clip_norm
        self._ranks = ranks
        self._generators = generators
        self._needs_closure = needs_closure(optimizer)
        self._base_lrs = [float(group["lr"]) for group in optimizer.param_groups]

    def next_rate(self, num_updates: int, num_steps: int) -> float:
        """Returns the learning rate that the next update uses for the first parameter group.

        Args:
            num_updates: Number of updates so far.
            num_steps: Number of steps in the whole run.
        """
        return self._base_lrs[0] * self._schedule(num_updates, num_steps) if self.rate is None else self.rate

    def forward(self, compute_loss: Callable[[], Tensor]) -> Tensor:
        """Computes this rank's loss at the point at which the optimizer needs the gradients."""
        assert self.replica is not None
        try:
            self._move()
            return self.replica.forward(compute_loss)
        except BaseException:
            self._move_back()
            raise

    def __call__(
        self, compute_loss: Callable[[], Tensor], loss: Tensor, share: float, *, num_updates: int, num_steps: int
    ) -> bool:
        """Updates the weights, unless a gradient on any rank is not finite.

        Args:
            compute_loss: Function that computes this rank's loss for the current weights.
            loss: Loss returned by `forward(compute_loss)`.
            share: This rank's weight in the mean over all ranks, 0 to 1.
            num_updates: Number of updates so far.
            num_steps: Number of steps in the whole run.

        Returns:
            Whether the weights were updated.

        Raises:
            InvalidArgument: BAD_VALUE if no rank's loss depends on a parameter, or if the optimizer cannot update the
                model.
        """
        try:
            is_finite = self._differentiate(loss, share)
        finally:
            self._move_back()
        updated = is_finite and self._update(compute_loss, loss, share, num_updates, num_steps)
        if self.scaler:
            self.scaler.update(not updated)
        return updated

    def _move(self) -> None:
        if isinstance(self._optimizer, InterfaceAdapter):
            self._optimizer.move()

    def _move_back(self) -> None:
        if isinstance(self._optimizer, InterfaceAdapter):
            self._optimizer.move_back()

    def _differentiate(self, loss: Tensor, share: float) -> bool:
        """Computes, unscales and clips the gradients; returns whether they are finite."""
        assert self.replica is not None
        if not self.replica.backward(loss * self.scaler.scale if self.scaler else loss, share):
            message = "the loss does not depend on any parameter that requires a gradient"
            raise InvalidArgument("BAD_VALUE", message, field="loss")
        gradients = self._gradients()
        # The summed gradients are identical on every rank, and an Inf or NaN on one rank makes the sum Inf or NaN. So
        # every rank computes the same found_inf. The next step checks this.
        found_inf, norm = unscale(gradients, self.scaler.inverse if self.scaler else 1.0)
        self.gradient_norm = norm
        if found_inf:
            return False
        if self._clip_norm:
            torch._foreach_mul_(gradients, (self._clip_norm / (norm + 1e-6)).clamp(max=1.0))
        return True

    def _gradients(self) -> list[Tensor]:
        gradients = []
        for group in self._optimizer.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    if param.grad.is_sparse:
                        param.grad = param.grad.coalesce()
                    gradients.append(param.grad._values() if param.grad.is_sparse else param.grad)
        return gradients

    def _update(
        self, compute_loss: Callable[[], Tensor], loss: Tensor, share: float, num_updates: int, num_steps: int
    ) -> bool:
        """Calls the optimizer; returns False if a gradient was not finite."""
        first = self._base_lrs[0]
        factor = self._schedule(num_updates, num_steps) if self.rate is None else self.rate / first if first else 0.0
        for group, base_lr in zip(self._optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = base_lr * factor
        if self.rate is not None:  # not only nearly this rate
            self._optimizer.param_groups[0]["lr"] = self.rate
        # An optimizer that draws random numbers must draw the same numbers on every rank. Otherwise, weights would
        # diverge.
        self._generators.seed(ALL_RANKS)
        try:
            if self._needs_closure:
                return self._update_by_closure(compute_loss, loss, share)
            self._optimizer.step()
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            if num_updates or isinstance(self._optimizer, InterfaceAdapter):
                raise
            message = f"{type_name(self._optimizer)} cannot update this model: {error}"
            raise InvalidArgument("BAD_VALUE", message, field="optimizer") from error
        return True

    def _update_by_closure(self, compute_loss: Callable[[], Tensor], loss: Tensor, share: float) -> bool:
        """Calls an optimizer that evaluates the loss and the gradients several times per step, for different weights.

        The closure computes the averaged, clipped gradients for the current weights, and returns the mean loss over all
        ranks. All calls of the closure in one step use the same dropout masks. If a gradient is not finite, the weights
        are restored and the optimizer's state is discarded.
        """
        starts = [
            (param, param.detach().clone(), param.grad)
            for group in self._optimizer.param_groups
            for param in group["params"]
        ]
        value = self._mean_over_ranks(loss, share)

        @torch.enable_grad()
        def closure() -> Tensor:
            nonlocal value
            if any(param.grad is not grad or not torch.equal(param, start) for param, start, grad in starts):
                assert self.replica is not None
                loss = self.replica.forward(compute_loss)
                if not self._differentiate(loss, share):
                    raise _NotFiniteError
                value = self._mean_over_ranks(loss, share)
                self._generators.seed(ALL_RANKS)
            return value

        try:
            self._optimizer.step(closure)  # type: ignore[arg-type]  # annotated with float; torch's optimizers accept tensors
        except _NotFiniteError:
            with torch.no_grad():
                for param, start, _ in starts:
                    param.copy_(start)
            self._optimizer.state.clear()
            return False
        return True

    def _mean_over_ranks(self, loss: Tensor, share: float) -> Tensor:
        if self._ranks.world_size == 1:
            return loss.detach()
        return self._ranks.sum_(loss.detach() * share if share else torch.zeros_like(loss))
