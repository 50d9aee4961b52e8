"""Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682, algorithm 1)."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from common.errors import InvalidArgument
from deepseek.optim.interface import OptimizerInterface


class ScheduleFreeAdamW(OptimizerInterface):
    """AdamW without a schedule: the model's weights are an average of the optimizer's, so they need no decaying rate.

    The gradients are computed at a point between the average x and the latest weights z. Between steps, the model holds
    the average, with which it is evaluated, saved and exported. Use it with the schedule `constant`, preferably with a
    warm-up, and with a higher learning rate than AdamW. Statistics of batch normalization are those of the point of the
    gradients, not of the average, which may cost some accuracy.

    Args:
        params: Parameters to optimize.
        lr: Learning rate.
        betas: Weight of the average in the point of the gradients, and decay rate of the second moment.
        eps: Term added to the denominator.
        weight_decay: Decay rate of the weights. In each step, this rate is multiplied by the learning rate.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr)
        for i, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                message = f"betas[{i}] is {beta}; it must be at least 0 and below 1"
                raise InvalidArgument("BAD_VALUE", message, field="betas")
        for name, value in {"eps": eps, "weight_decay": weight_decay}.items():
            if not 0.0 <= value < math.inf:
                message = f"{name} is {value}; it must be finite and at least 0"
                raise InvalidArgument("BAD_VALUE", message, field=name)
        self._betas = betas
        self._eps = eps
        self._weight_decay = weight_decay

    def move_to_gradient_point(self, params: Sequence[Tensor]) -> None:
        """Moves the parameters from the average towards the latest weights: y = beta x + (1 - beta) z."""
        for param in params:
            if state := self.state.get(param):
                param.lerp_(state["latest"], 1 - self._betas[0])

    def step(self, params: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        for param, gradient in zip(params, gradients, strict=True):
            state = self.state[param]
            if not state:
                latest = param.clone(memory_format=torch.preserve_format)
                state.update(latest=latest, second_moment=torch.zeros_like(param), num_updates=0, weight_sum=0.0)
            latest, moment = state["latest"], state["second_moment"]
            state["num_updates"] += 1
            point = param.lerp(latest, 1 - self._betas[0])
            moment.mul_(self._betas[1]).addcmul_(gradient, gradient, value=1 - self._betas[1])
            rate = self.lr * math.sqrt(1 - self._betas[1] ** state["num_updates"])
            latest.addcdiv_(gradient, moment.sqrt().add_(self._eps), value=-rate)
            latest.sub_(point, alpha=rate * self._weight_decay)
            state["weight_sum"] += rate**2
            if state["weight_sum"]:  # 0 as long as the learning rate is 0
                param.lerp_(latest, rate**2 / state["weight_sum"])
