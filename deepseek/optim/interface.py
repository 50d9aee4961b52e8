"""The interface for custom optimizers: one method to implement, and state that is saved in checkpoints.

The trainer handles precision, unscaling, clipping, non-finite gradients, averaging over ranks, the schedule and
checkpoints. The interface does not inherit from `torch.optim.Optimizer`, because the `step` of that class takes a
closure, and its `load_state_dict` casts the state to the dtype of the parameters.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from common.errors import InvalidArgument


class OptimizerInterface(ABC):
    """Base class of custom optimizers. Not thread-safe. A minimal example:

        class SignDescent(OptimizerInterface):
            def step(self, params, gradients):
                for param, gradient in zip(params, gradients):
                    param.sub_(self.lr * gradient.sign())

    When several ranks train together, every rank holds all parameters and runs its own copy of the optimizer with the
    same gradients. The copies stay identical as long as `step` depends only on the gradients, on `state`, and on
    torch's random generator, which the trainer seeds identically on every rank before each step.

    Args:
        params: Parameters to optimize.
        lr: Base learning rate, which the schedule multiplies by its factor.

    Attributes:
        params: All parameters, in the model's order.
        lr: Learning rate of the next step; set by the trainer before each step.
        state: Named values for each parameter, e.g. `self.state[param]["momentum"]`. A value is a tensor, a number,
            text, None, or a list or dict of these. Only this attribute is saved in checkpoints.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3) -> None:
        self.params = list(params)
        self.lr = lr
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)

    def move_to_gradient_point(self, params: Sequence[Tensor]) -> None:  # noqa: B027 - most optimizers do not move
        """Moves the parameters, in place, to the point at which the next step needs the gradients.

        By default, this is where the parameters are. Override it if the model's weights, e.g. an average, differ from
        this point. Called before the gradients of each step are computed, with gradient tracking disabled. Before
        `step`, or if the step is skipped, the trainer moves the parameters back. So between steps, the parameters are
        always the weights with which the model is evaluated, saved and exported.

        Args:
            params: All parameters that require a gradient.
        """

    @abstractmethod
    def step(self, params: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Updates the parameters in place. Called with gradient tracking disabled.

        Args:
            params: Parameters that have a gradient in this step. All of them are float32.
            gradients: Gradients of `params`, in the same order: finite, unscaled, clipped and averaged over ranks.
        """

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of each parameter, by its position in `params`. Tensors are not copied."""
        positions = {param: i for i, param in enumerate(self.params)}
        return {"state": {positions[param]: dict(state) for param, state in self.state.items()}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores a state returned by `state_dict`. Each tensor keeps its dtype and moves to its parameter's device.

        Raises:
            InvalidArgument: BAD_STATE if the state does not belong to these parameters.
        """
        state = state_dict.get("state")
        if set(state_dict) != {"state"} or not isinstance(state, dict):
            message = (
                "an optimizer's state must be a dict whose only key is 'state', with a dict of the parameters' states"
            )
            raise InvalidArgument("BAD_STATE", message, field="state")
        for position, values in state.items():
            if type(position) is not int or not 0 <= position < len(self.params) or not isinstance(values, dict):
                message = (
                    f"the state maps {str(position)[:80]} to a {type(values).__name__}; "
                    f"it must map positions below {len(self.params)} to dicts"
                )
                raise InvalidArgument("BAD_STATE", message, field="state")
        self.state.clear()
        for position, values in state.items():
            param = self.params[position]
            self.state[param] = {name: _moved(value, param.device) for name, value in values.items()}


class InterfaceAdapter(torch.optim.Optimizer):
    """Wraps an `OptimizerInterface` as a torch optimizer, because the trainer works only with torch optimizers.

    Args:
        inner: Optimizer to wrap.
    """

    def __init__(self, inner: OptimizerInterface) -> None:
        self.inner = inner
        self._moves = type(inner).move_to_gradient_point is not OptimizerInterface.move_to_gradient_point
        self._weights: list[tuple[Tensor, Tensor]] = []
        super().__init__(inner.params, {"lr": inner.lr})

    @torch.no_grad()
    def move(self) -> None:
        """Moves the parameters to the point at which the inner optimizer needs the gradients."""
        if self._moves:
            params = [param for param in self.inner.params if param.requires_grad]
            self._weights = [(param, param.clone(memory_format=torch.preserve_format)) for param in params]
            self.inner.move_to_gradient_point(params)

    @torch.no_grad()
    def move_back(self) -> None:
        """Restores the parameters, unless they have not been moved."""
        for param, weights in self._weights:
            param.copy_(weights)
        self._weights = []

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Calls the inner optimizer with the learning rate of the parameter group."""
        assert closure is None
        self.inner.lr = self.param_groups[0]["lr"]
        params = [param for param in self.inner.params if param.grad is not None]
        self.inner.step(params, [param.grad for param in params if param.grad is not None])

    def state_dict(self) -> dict[str, Any]:
        """Returns the inner optimizer's state."""
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state into the inner optimizer."""
        self.inner.load_state_dict(state_dict)


def _moved(value: Any, device: torch.device) -> Any:
    match value:
        case Tensor():
            return value.to(device)
        case dict():
            return {key: _moved(item, device) for key, item in value.items()}
        case list() | tuple():
            return type(value)(_moved(item, device) for item in value)
    return value
