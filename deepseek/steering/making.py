"""Makes policies by name. A policy of another package runs in a process of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import InvalidArgument, MeshError, plain_text
from deepseek.components import POLICIES
from deepseek.steering.functions import FunctionPolicy, is_function
from deepseek.steering.hosted import HostedPolicy
from deepseek.steering.policy import Adjustment, Observation, Policy

_MAX_MESSAGE_CHARACTERS = 500


def make_policy(name: str, params: Mapping[str, Any], *, field: str = "policy") -> Policy:
    """Makes a policy in this process.

    Raises:
        InvalidArgument: UNKNOWN_COMPONENT, UNKNOWN_FIELD, MISSING_FIELD or BAD_VALUE, as for `Components.build`;
            BAD_VALUE at `<field>.name` if the component is not a policy.
        FailedPrecondition: COMPONENT_NOT_IMPORTABLE.
    """
    part = POLICIES.get(name, field=f"{field}.name")
    if is_function(part):
        for key in params:
            message = f"the policy {name!r} is a function of epoch and learning rate, and has no parameter {key[:80]!r}"
            raise InvalidArgument("UNKNOWN_FIELD", message, field=f"{field}.params.{key}")
        return FunctionPolicy(part)
    made = POLICIES.build(name, params, field=field)
    if not isinstance(made, Policy):
        message = (
            f"the policy {name!r} is a {type(made).__name__}; it must be a subclass of deepseek.steering.Policy, or a "
            "function of epoch and learning rate"
        )
        raise InvalidArgument("BAD_VALUE", message, field=f"{field}.name")
    return made


def is_foreign(name: str) -> bool:
    """Returns whether another package provides a policy, so that it runs in a process of its own."""
    module = POLICIES.module(name)
    return bool(module) and not f"{module}.".startswith("deepseek.")


class AbsentPolicy(Policy):
    """Stands for a policy that only rank 0 has, on the other ranks."""

    def decide(self, observation: Observation) -> Adjustment | None:
        raise AssertionError("rank 0 decides")


class LostPolicy(Policy):
    """Stands for a policy that a resumed run can no longer use.

    Args:
        error: Why it cannot be used.
    """

    is_lost = True

    def __init__(self, error: MeshError) -> None:
        self._error = error

    def check(self) -> None:
        raise self._error

    def decide(self, observation: Observation) -> Adjustment | None:
        raise self._error


def open_policy(name: str, params: Mapping[str, Any], directory: Path, *, field: str = "policy") -> Policy:
    """Makes a policy. If another package provides it, starts a process for it, and does not wait for that process.

    Args:
        name: Name of the policy.
        params: Parameters of the policy.
        directory: Directory for the output of the process.
        field: Field that errors name.

    Raises:
        MeshError: As for `make_policy`. A policy of another package reports such errors when it is first used.
    """
    POLICIES.check(name, field=f"{field}.name")
    if is_foreign(name):
        return HostedPolicy(name, params, directory, field=field)
    return make_policy(name, params, field=field)


def why_lost(policy: Policy) -> str:
    """Returns why a lost policy cannot be used; empty for other policies."""
    try:
        if policy.is_lost:
            policy.check()
    except MeshError as error:
        return error_text(error)
    return ""


def error_text(error: Exception) -> str:
    """Returns what a warning says about an error, which the code of a policy may have raised."""
    message = error.message if isinstance(error, MeshError) else f"{type(error).__name__}: {error}"
    return plain_text(message)[:_MAX_MESSAGE_CHARACTERS]
