"""Options of `deepseek train` and `deepseek federated start` that change the privacy of a spec."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from common.errors import FailedPrecondition, InvalidArgument, NotFound, Violation
from deepseek.client.names import budget_name

PRIVACY_OPTIONS = {
    "spec.privacy.unit": "--unit",
    "spec.privacy.clip_norm": "--clip-norm",
    "spec.privacy.noise_multiplier": "--noise",
    "spec.privacy.target_epsilon": "--epsilon",
    "spec.privacy.delta": "--delta",
    "spec.privacy.example_rate": "--example-rate",
    "spec.privacy.budget": "--budget",
}
"""Options by the field of a spec that they set."""


def chosen_privacy(
    *,
    clip_norm: float | None,
    noise: float | None,
    epsilon: float | None,
    example_rate: float | None,
    budget: str,
    delta: float | None = None,
) -> dict[str, Any]:
    """Returns the members of `privacy` that options of these names set; those that are not given are left out."""
    members = {
        "clip_norm": clip_norm,
        "noise_multiplier": noise,
        "target_epsilon": epsilon,
        "delta": delta,
        "example_rate": example_rate,
        "budget": budget_name(budget, field="--budget") if budget else None,
    }
    return {name: value for name, value in members.items() if value is not None}


def change_privacy(spec: dict[str, Any], chosen: Mapping[str, Any]) -> None:
    """Sets members of a spec's `privacy`.

    Of the two ways to choose the noise, the one that is set replaces the one in the spec.

    Raises:
        InvalidArgument: BAD_VALUE if the spec's `privacy` is not an object.
    """
    if not chosen:
        return
    privacy = spec["privacy"] = merged(spec, "privacy", chosen)
    for one, other in (("noise_multiplier", "target_epsilon"), ("target_epsilon", "noise_multiplier")):
        if one in chosen and other not in chosen:
            privacy.pop(other, None)


@contextmanager
def naming_options(options: Mapping[str, str]) -> Iterator[None]:
    """Adds the option that sets a field to the name of each field in an error that the `with` block raises.

    Args:
        options: Options by the field that they set.
    """
    try:
        yield
    except (FailedPrecondition, InvalidArgument, NotFound) as error:
        violations = [
            Violation(f"{one.field} ({options[one.field]})" if one.field in options else one.field, one.description)
            for one in error.violations
        ]
        raise type(error)(error.reason, error.message, violations=violations) from error


def merged(spec: Mapping[str, Any], name: str, members: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an object of the spec with further members.

    Raises:
        InvalidArgument: BAD_VALUE if the spec has something else there.
    """
    found = spec.get(name)
    found = {} if found is None else found
    if not isinstance(found, Mapping):
        message = f"expected an object, found {type(found).__name__}"
        raise InvalidArgument("BAD_VALUE", message, field=f"spec.{name}")
    return {**found, **members}
