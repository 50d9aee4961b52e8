"""Random compositions, and their epsilons according to other accountants."""

import math
import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution, from_gaussian_mechanism
from opacus.accountants import PRVAccountant

from deepseek.privacy.accounting import epsilon
from deepseek.privacy.loss_distributions import grid_of
from deepseek.privacy.releases import Release

FINER = 10


@dataclass(frozen=True)
class Case:
    """`count` equal releases, and a delta."""

    noise_multiplier: float
    sampling_rate: float
    count: int
    delta: float

    @property
    def release(self) -> Release:
        return Release(self.noise_multiplier, self.sampling_rate, self.count)


def random_cases(num_cases: int, seed: int = 14) -> list[Case]:
    """Returns cases, always the same for a seed, drawn evenly on a logarithmic scale; one in ten is not sampled.

    Cases whose epsilon is far above 50 are drawn again, because no such result would be released."""
    return [case for case, _ in zip(_draw(random.Random(seed)), range(num_cases), strict=False)]


def _draw(source: random.Random) -> Iterator[Case]:
    def between(low: float, high: float) -> float:
        return math.exp(source.uniform(math.log(low), math.log(high)))

    while True:
        rate = 1.0 if source.random() < 0.1 else between(1e-3, 1)
        case = Case(between(0.5, 20), rate, round(between(1, 10_000)), between(1e-8, 1e-4))
        if case.sampling_rate * math.sqrt(case.count) / case.noise_multiplier < 5:
            yield case


def compare(case: Case) -> dict[str, Any]:
    """Returns our epsilon for a case, an upper bound at a finer grid, a lower bound at ours, and that of Opacus."""
    grid = grid_of([(case.noise_multiplier, case.sampling_rate, case.count)])
    return {
        **asdict(case),
        "ours": epsilon([case.release], case.delta),
        "fine_pessimistic": _by_pld(case, grid / FINER, pessimistic=True),
        "optimistic": _by_pld(case, grid, pessimistic=False),
        "prv_lower": prv_lower_bound(case),
    }


def lower_bound(releases: Sequence[Release], delta: float) -> float:
    """Returns a lower bound on the epsilon of releases together, from dp-accounting; 0 for none.

    >>> lower_bound([Release(5.0), Release(5.0)], 1e-6) < epsilon([Release(5.0, count=2)], 1e-6)
    True
    """
    if not releases:
        return 0.0
    grid = grid_of([(one.noise_multiplier, one.sampling_rate, one.count) for one in releases])
    losses = [_loss(release, grid, pessimistic=False) for release in releases]
    return float(reduce(PrivacyLossDistribution.compose, losses).get_epsilon_for_delta(delta))


def _by_pld(case: Case, grid: float, *, pessimistic: bool) -> float:
    return float(_loss(case.release, grid, pessimistic=pessimistic).get_epsilon_for_delta(case.delta))


def _loss(release: Release, grid: float, *, pessimistic: bool) -> PrivacyLossDistribution:
    single = from_gaussian_mechanism(
        release.noise_multiplier,
        sampling_prob=release.sampling_rate,
        value_discretization_interval=grid,
        pessimistic_estimate=pessimistic,
        use_connect_dots=pessimistic,
    )
    return single.self_compose(release.count)


def prv_lower_bound(case: Case) -> float:
    """Returns the lower bound of the accountant of Gopi et al. 2021 in Opacus, with an error of 0.01 in epsilon."""
    accountant = PRVAccountant()
    accountant.history = [(case.noise_multiplier, case.sampling_rate, case.count)]
    with warnings.catch_warnings():  # about its search for a grid, and about a rate of 1
        warnings.simplefilter("ignore")
        found = accountant._get_dprv(eps_error=0.01, delta_error=case.delta / 1000)
        lower, _, _ = found.compute_epsilon(case.delta, case.delta / 1000, 0.01)
    return max(float(lower), 0.0)
