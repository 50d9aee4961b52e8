"""The interface of an optimizer of one's own: one method, and state that is saved.

The trainer does the rest: precision, unscaling, clipping, skipping steps whose gradients are not finite, averaging
gradients over the ranks, the schedule, and checkpoints.

    class SignDescent(OptimizerInterface):
        def step(self, params, gradients):
            for param, gradient in zip(params, gradients):
                param.sub_(self.lr * gradient.sign())

Not a subclass of `torch.optim.Optimizer`: that one's `step` takes a closure, and its `load_state_dict` casts state to
the type of the parameters.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from common.errors import InvalidArgument


class OptimizerInterface(ABC):
    """Base class of optimizers of one's own. Not thread-safe.

    On several ranks, every rank holds all parameters and runs its own copy, which sees the same gradients; a copy's
    state stays equal to the others' because `step` is a function of them, of `state`, and of torch's random generator,
    which the trainer seeds alike on every rank before each step.

    Args:
        params: Parameters to optimize.
        lr: Learning rate at the top of the schedule.

    Attributes:
        params: All parameters, in the model's order.
        lr: Learning rate of this step; the trainer sets it before each.
        state: State of each parameter by name, `self.state[param]["momentum"]`: tensors, numbers, text, None, and lists
            and dicts of these. It is saved in checkpoints; other attributes are not.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3) -> None:
        self.params = list(params)
        self.lr = lr
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)

    @abstractmethod
    def step(self, params: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Updates the parameters in place; called without gradient tracking.

        Args:
            params: The parameters that have a gradient, float32.
            gradients: Their gradients, finite, unscaled, clipped and averaged over ranks; of the parameters' shapes.
        """

    def state_dict(self) -> dict[str, Any]:
        """Returns the state, keyed by the parameters' positions; tensors are not copied."""
        positions = {param: i for i, param in enumerate(self.params)}
        return {"state": {positions[param]: dict(state) for param, state in self.state.items()}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` returned; tensors move to their parameter's device and keep their type.

        Raises:
            InvalidArgument: BAD_STATE if it is not such a state for these parameters.
        """
        state = state_dict.get("state")
        if set(state_dict) != {"state"} or not isinstance(state, dict):
            raise InvalidArgument("BAD_STATE", "a dict of each parameter's state is expected", field="state")
        for position, values in state.items():
            if type(position) is not int or not 0 <= position < len(self.params) or not isinstance(values, dict):
                message = f"the state is of a parameter {str(position)[:80]}; there are {len(self.params)}"
                raise InvalidArgument("BAD_STATE", message, field="state")
        self.state.clear()
        for position, values in state.items():
            param = self.params[position]
            self.state[param] = {name: _moved(value, param.device) for name, value in values.items()}


class InterfaceAdapter(torch.optim.Optimizer):
    """An `OptimizerInterface` in the form of torch's optimizers, which is the one form that the trainer knows.

    Args:
        inner: The optimizer.
    """

    def __init__(self, inner: OptimizerInterface) -> None:
        self.inner = inner
        super().__init__(inner.params, {"lr": inner.lr})

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
        """Gives a state to the inner optimizer."""
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
