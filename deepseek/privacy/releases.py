"""What accounting must know about a noisy release, and the validation of privacy parameters."""

import math
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

from common.errors import InvalidArgument
from common.scalars import python_value

MIN_DELTA = 1e-10
"""The smallest delta. Below it, rounding errors of the Fourier transform would be a visible part of delta."""
MAX_EPSILON = 500.0
"""The largest epsilon that is computed and that a budget may have; it protects nothing."""
MAX_COUNT = 10_000_000


@dataclass(frozen=True)
class Release:
    """`count` equal releases of a sum that was protected by the Poisson-subsampled Gaussian mechanism.

    Each release samples every member of the population independently, clips the contribution of each sampled member to
    an L2 norm of at most C, sums the contributions, and adds Gaussian noise. Neighbouring populations differ in one
    member that is added or removed. The guarantee holds only if nobody learns who was sampled. If the sample can become
    known, use a rate of 1.

    Attributes:
        noise_multiplier: Standard deviation of the noise divided by C; 0 means no noise, and hence no privacy.
        sampling_rate: Probability with which a member is sampled, in (0, 1]; 1 means that everyone takes part.
        count: Number of equal releases, from 1 to `MAX_COUNT`.

    Raises:
        InvalidArgument: BAD_NOISE, BAD_RATE or BAD_COUNT.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    count: int = 1

    def __post_init__(self) -> None:
        for name, value in (
            ("noise_multiplier", check_noise(self.noise_multiplier, "noise_multiplier")),
            ("sampling_rate", check_rate(self.sampling_rate, "sampling_rate")),
            ("count", check_count(self.count, "count")),
        ):
            object.__setattr__(self, name, value)


def check_epsilon(given: Any, field: str = "epsilon") -> float:
    """Returns a target or budget as a float.

    Raises:
        InvalidArgument: BAD_EPSILON if the value is not in (0, `MAX_EPSILON`].
    """
    if (value := _number(given)) is None or not 0 < value <= MAX_EPSILON:
        expected = f"above 0 and at most {MAX_EPSILON:g}; budgets usually lie between 0.1 and 10"
        _refuse("BAD_EPSILON", given, expected, field)
    return value


def check_delta(given: Any, field: str = "delta") -> float:
    """Returns delta as a float.

    Raises:
        InvalidArgument: BAD_DELTA if the value is not in [`MIN_DELTA`, 1).
    """
    if (value := _number(given)) is None or not MIN_DELTA <= value < 1:
        expected = f"at least {MIN_DELTA:g} and below 1; choose less than 1 / (number of members)"
        _refuse("BAD_DELTA", given, expected, field)
    return value


def delta_warning(delta: float, num_units: int, units: str) -> str:
    """Returns a warning if delta is so large that a guarantee may allow one unit to be published; empty otherwise.

    Args:
        delta: Delta of the guarantee.
        num_units: Number of protected units, at least 1.
        units: Noun for them, e.g. `examples`.
    """
    if delta < 1 / num_units:
        return ""
    return (
        f"delta is {delta:g}, which is not below 1/n for n = {num_units} {units}; such a guarantee allows the "
        "data of one of them to be published unchanged. Choose a smaller delta when you create a budget"
    )


def check_noise(given: Any, field: str) -> float:
    """Returns a noise multiplier or a standard deviation as a float.

    Raises:
        InvalidArgument: BAD_NOISE if the value is negative or not a finite number.
    """
    if (value := _number(given)) is None or not 0 <= value < math.inf:
        _refuse("BAD_NOISE", given, "a finite number that is not negative", field)
    return value


def check_rate(given: Any, field: str) -> float:
    """Returns a sampling rate as a float.

    Raises:
        InvalidArgument: BAD_RATE if the value is not in (0, 1].
    """
    if (value := _number(given)) is None or not 0 < value <= 1:
        _refuse("BAD_RATE", given, "above 0 and at most 1", field)
    return value


def check_count(given: Any, field: str) -> int:
    """Returns a number of releases as an int.

    Raises:
        InvalidArgument: BAD_COUNT if the value is not a whole number from 1 to `MAX_COUNT`.
    """
    value = python_value(given)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_COUNT:
        _refuse("BAD_COUNT", given, f"a whole number from 1 to {MAX_COUNT}", field)
    return value


def _number(given: Any) -> float | None:
    value = python_value(given)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= sys.float_info.max else math.inf


def _refuse(reason: str, given: Any, expected: str, field: str) -> NoReturn:
    name = field.rpartition(".")[2].replace("_", " ")
    raise InvalidArgument(reason, f"{name} is {str(given)[:80]}; it must be {expected}", field=field)
