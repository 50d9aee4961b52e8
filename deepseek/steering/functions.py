"""Policies written as a function `lr_scheduler(epoch, current_lr)` that returns the new learning rate.

The function may use the figures of the last evaluation as if they were global variables: `validation_loss`,
`validation_accuracy` and so on, and the loss of the previous epoch as `train_loss`. A figure that does not exist yet is
NaN, so comparisons with it are false. The function's own module is not changed: it runs with a copy of its globals.
"""

import inspect
import math
from collections.abc import Callable
from types import FunctionType
from typing import Any

from common.errors import InvalidArgument
from deepseek.steering.policy import Adjustment, Observation, Policy

PARAMETERS = ("epoch", "current_lr")


def is_function(part: Any) -> bool:
    """Returns whether an object is a plain function with exactly two positional parameters, epoch and learning rate."""
    if not inspect.isfunction(part):
        return False
    parameters = list(inspect.signature(part).parameters.values())
    return len(parameters) == len(PARAMETERS) and all(
        one.kind is one.POSITIONAL_OR_KEYWORD and one.default is one.empty for one in parameters
    )


class FunctionPolicy(Policy):
    """Calls a function before each epoch.

    Args:
        function: Function of the epoch, counted from 0, and the current learning rate. It returns the new rate, or None
            to keep the current one.

    Raises:
        InvalidArgument: BAD_VALUE at `policy` if it is not such a function.
    """

    def __init__(self, function: Callable[[int, float], Any]) -> None:
        if not isinstance(function, FunctionType) or not is_function(function):
            message = "the policy must be a function with exactly two parameters: the epoch and the learning rate"
            raise InvalidArgument("BAD_VALUE", message, field="policy")
        self._globals = dict(function.__globals__)
        self._globals.setdefault("validation_loss", math.nan)
        self._function = FunctionType(
            function.__code__, self._globals, function.__name__, function.__defaults__, function.__closure__
        )

    def decide(self, observation: Observation) -> Adjustment | None:
        figures = {f"validation_{name}": value for name, value in observation.validation.items()}
        loss = math.nan if observation.train_loss is None else observation.train_loss
        self._globals.update({"validation_loss": math.nan, "train_loss": loss, **figures})
        rate = self._function(observation.epoch, observation.learning_rate)
        return None if rate is None else Adjustment(rate)
