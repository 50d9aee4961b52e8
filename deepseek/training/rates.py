"""Reads the schedule and the policy that a trainer is given, each of which may be a name or an object."""

from collections.abc import Callable, Mapping
from typing import Any

from common.errors import InvalidArgument
from deepseek.components import SCHEDULES
from deepseek.steering.functions import FunctionPolicy
from deepseek.steering.policy import Policy
from deepseek.training.schedules import Schedule, constant

PolicyFunction = Callable[[int, float], Any]
"""A function of the epoch and the learning rate, see `FunctionPolicy`."""
NamedPolicy = tuple[str, Mapping[str, Any]]
"""Name and parameters of a policy."""
OpenPolicy = Callable[[str, Mapping[str, Any]], Policy]
"""Makes a policy, given its name and parameters."""


def make_schedule(schedule: str | Schedule | None, params: Mapping[str, Any] | None) -> Schedule:
    """Returns a schedule, which may be given by name.

    Raises:
        InvalidArgument: BAD_VALUE at `schedule_params`, or the errors of `Components.build`.
    """
    if isinstance(schedule, str):
        made: Schedule = SCHEDULES.build(schedule, params or {}, field="schedule")
        return made
    if params:
        message = "schedule_params is given, but schedule is not a name; pass the name of a schedule"
        raise InvalidArgument("BAD_VALUE", message, field="schedule_params")
    return schedule or constant()


def read_policy(
    policy: str | Policy | PolicyFunction | None,
    params: Mapping[str, Any] | None,
    open_policy: OpenPolicy,
) -> tuple[NamedPolicy | None, OpenPolicy]:
    """Returns the name and parameters of a policy, which may be given in several forms, and a function that makes it.

    Raises:
        InvalidArgument: BAD_VALUE at `policy_params`.
    """
    if isinstance(policy, str):
        return (policy, params or {}), open_policy
    if params:
        message = "policy_params is given, but policy is not a name; pass the name of a policy"
        raise InvalidArgument("BAD_VALUE", message, field="policy_params")
    if policy is None:
        return None, open_policy
    own = policy if isinstance(policy, Policy) else FunctionPolicy(policy)
    name = getattr(policy, "__name__", type(policy).__name__)
    return (name, {}), lambda one, given: own if one == name else open_policy(one, given)
