"""Messages of the contract of privacy budgets, for the services that debit them."""

from typing import Literal

from deepseek.privacy.releases import Release
from protos.privacy.v1 import privacy_pb2

DEADLINE_S = 120.0
"""Deadline of calls that compute privacy losses, in seconds. The first such call of a registry takes the longest."""

_UNITS = {"client": privacy_pb2.UNIT_CLIENT, "example": privacy_pb2.UNIT_EXAMPLE}


def release_to_proto(release: Release) -> privacy_pb2.Release:
    """Returns a release as a message."""
    return privacy_pb2.Release(
        noise_multiplier=release.noise_multiplier, sampling_rate=release.sampling_rate, count=release.count
    )


def guarantee_to_proto(
    *, epsilon: float, delta: float, unit: Literal["client", "example"], is_sampled: bool, debit: str
) -> privacy_pb2.Guarantee:
    """Returns a guarantee as a message.

    Args:
        epsilon: Upper limit of the privacy loss of the budget's debits up to `debit`.
        delta: Probability with which `epsilon` may not hold.
        unit: What is protected.
        is_sampled: Whether the guarantee relies on Poisson sampling.
        debit: `budgets/<id>/debits/<n>`, the last debit that the guarantee includes.
    """
    return privacy_pb2.Guarantee(
        epsilon=epsilon,
        delta=delta,
        unit=_UNITS[unit],
        adjacency=privacy_pb2.ADJACENCY_ADD_REMOVE,
        sampling=privacy_pb2.SAMPLING_POISSON if is_sampled else privacy_pb2.SAMPLING_NONE,
        debit=debit,
    )
