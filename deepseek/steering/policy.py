"""The interface of policies: what a policy sees, what it may change, and the limits of what it may change."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from common.errors import InvalidArgument
from common.scalars import real_number

DEFAULT = "plateau"
"""Name of the policy that is used if none is named."""


def policy_name(name: str) -> str:
    """Returns the name of a policy in the registry, e.g. `one_cycle` for `one-cycle`."""
    return name.replace("-", "_")


@dataclass(frozen=True)
class Observation:
    """What a policy sees when it decides.

    Attributes:
        epoch: Number of completed epochs, which is the number of the epoch that begins, counted from 0.
        num_epochs: Number of epochs of the whole run.
        step: Number of completed steps.
        num_steps: Number of steps of the whole run.
        learning_rate: Learning rate that the next step would use.
        momentum: Momentum, or the first of Adam's betas; None if the optimizer has neither.
        train_loss: Mean loss over the training steps of the previous epoch; None before the first epoch, and in a run
            with differential privacy, whose training figures are secret.
        validation: Figures of the last evaluation, by name, e.g. `loss`; empty if there was none.
    """

    epoch: int
    num_epochs: int
    step: int
    num_steps: int
    learning_rate: float
    momentum: float | None = None
    train_loss: float | None = None
    validation: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Adjustment:
    """New values; None leaves a value as it is.

    Attributes:
        learning_rate: Learning rate of the first parameter group. The rates of other groups change in proportion.
        momentum: Momentum, or the first of Adam's betas; from 0 to below 1.
    """

    learning_rate: float | None = None
    momentum: float | None = None


class Policy(ABC):
    """Decides on learning rate and momentum before each epoch. Not thread-safe.

    The decision must depend only on the observations so far and on the parameters, because a run that resumes after a
    crash repeats the decisions since its last checkpoint.

    Attributes:
        floor: Lowest learning rate that the policy may set, relative to the rate at which the policy began.
        ceiling: Highest learning rate that the policy may set, relative to the same rate.
        is_lost: Whether the policy cannot be used any more. The training then continues with its last values.
    """

    floor: float = 1e-6
    ceiling: float = 1e3
    is_lost: bool = False

    @abstractmethod
    def decide(self, observation: Observation) -> Adjustment | None:
        """Returns the values from the next step on; None to leave them as they are."""

    def state(self) -> dict[str, Any]:
        """Returns what `decide` remembers, as JSON values. It is stored in checkpoints."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most policies remember nothing
        """Restores a state that `state` returned.

        Raises:
            KeyError, TypeError, ValueError: The state is that of another policy.
        """

    @property
    def is_ready(self) -> bool:
        """Whether `check` would not wait."""
        return True

    def check(self) -> None:  # noqa: B027 - only a policy in another process can fail later than its constructor
        """Waits until the policy can decide.

        Raises:
            MeshError: It cannot, e.g. because of its parameters.
        """

    def close(self) -> None:  # noqa: B027 - only a policy in another process has something to free
        """Frees the resources of the policy. Idempotent."""


class Curve(Policy):
    """A policy whose values depend only on the step at which it began and on the current step.

    Every rank computes the values before every step, so `at` must be fast and must not fail.
    """

    floor: ClassVar[float] = 0.0  # type: ignore[misc]  # a curve ends where its formula says

    @abstractmethod
    def at(self, start: Observation, step: int) -> Adjustment:
        """Returns the values of a step.

        Args:
            start: What the policy saw when it began.
            step: Number of completed steps.
        """

    def decide(self, observation: Observation) -> Adjustment | None:
        return None


def checked(given: Any, policy: Policy, start_rate: float) -> Adjustment | None:
    """Checks what a policy returned.

    Args:
        given: Result of `decide`.
        policy: The policy.
        start_rate: Learning rate at which the policy began.

    Raises:
        InvalidArgument: BAD_VALUE; the message says what the policy returned.
    """
    if given is None:
        return None
    if not isinstance(given, Adjustment):
        message = f"it returned {type(given).__name__}, not an Adjustment"
        raise InvalidArgument("BAD_VALUE", message, field="policy")
    rate = None if given.learning_rate is None else check_rate(given.learning_rate)
    if rate is not None and not policy.floor * start_rate <= rate <= policy.ceiling * start_rate:
        message = (
            f"learning_rate is {rate:g}; this policy may set {policy.floor * start_rate:g} to "
            f"{policy.ceiling * start_rate:g}"
        )
        raise InvalidArgument("BAD_VALUE", message, field="learning_rate")
    return Adjustment(rate, None if given.momentum is None else check_momentum(given.momentum))


def check_rate(value: Any, field: str = "learning_rate") -> float:
    """Returns a learning rate as a float.

    Raises:
        InvalidArgument: BAD_VALUE if it is not a finite number above 0.
    """
    rate = real_number(value, field)
    if not (math.isfinite(rate) and rate > 0):
        raise InvalidArgument("BAD_VALUE", f"{field} is {rate}; it must be finite and above 0", field=field)
    return rate


def check_momentum(value: Any, field: str = "momentum") -> float:
    """Returns a momentum as a float.

    Raises:
        InvalidArgument: BAD_VALUE if it is not at least 0 and below 1.
    """
    momentum = real_number(value, field)
    if not 0 <= momentum < 1:
        raise InvalidArgument("BAD_VALUE", f"{field} is {momentum}; it must be at least 0 and below 1", field=field)
    return momentum


def check_share(value: float, field: str, *, above_0: bool = False) -> float:
    """Returns a parameter that must be from 0 to 1, or above 0 and at most 1.

    Raises:
        InvalidArgument: BAD_VALUE.
    """
    if not 0 <= value <= 1 or (above_0 and not value):
        limits = "above 0 and at most 1" if above_0 else "from 0 to 1"
        raise InvalidArgument("BAD_VALUE", f"{field} is {value}; it must be {limits}", field=field)
    return value
