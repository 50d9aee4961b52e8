"""Poisson sampling of cohorts, with unpredictable randomness."""

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from deepseek.privacy.releases import check_rate

Member = TypeVar("Member")


class RandomBytes(Protocol):
    """Source of random bytes, e.g. `random.SystemRandom()`.

    The source must be unpredictable; otherwise there is no privacy. Use a seeded `random.Random` only in tests."""

    def randbytes(self, n: int, /) -> bytes:
        """Returns n random bytes."""


def poisson_sample(population: Sequence[Member], rate: float, source: RandomBytes | None = None) -> tuple[Member, ...]:
    """Samples each member independently with the same probability.

    The size of the sample is random too, and may be 0. The guarantee of a sampling rate below 1 holds only if neither
    the sample nor its size is revealed, e.g. by the time that it takes to add up the contributions (Balle et al. 2018,
    "Privacy Amplification by Subsampling").

    Args:
        population: Members, each once.
        rate: Probability of each member, in (0, 1].
        source: Source of randomness; the operating system's by default.

    Returns:
        The sampled members, in the order of the population.

    Raises:
        InvalidArgument: BAD_RATE.
    """
    limit = check_rate(rate, "rate") * 2.0**64
    words_N = np.frombuffer((source or random.SystemRandom()).randbytes(8 * len(population)), "<u8")
    # Everyone at a rate of 1, which 64 bits cannot express. The product is exact, so a member's probability is off by
    # less than 2^-64.
    is_sampled_N = words_N < np.uint64(limit) if rate < 1 else np.ones(len(population), bool)
    return tuple(population[int(i)] for i in np.flatnonzero(is_sampled_N))
