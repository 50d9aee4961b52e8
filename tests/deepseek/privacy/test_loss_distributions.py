"""How distributions are composed, and how much memory they need."""

import time

import numpy as np
import pytest
from dp_accounting.pld.pld_pmf import DensePLDPmf
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution, from_gaussian_mechanism

from common import deadline
from common.errors import DeadlineExceeded, Unavailable
from deepseek.privacy import loss_distributions
from deepseek.privacy.loss_distributions import MAX_COMPOSED_POINTS, Cache, epsilon_at, grid_of, num_points


def single(noise: float, rate: float, grid: float) -> PrivacyLossDistribution:
    """The dense distribution of one release."""
    found = from_gaussian_mechanism(noise, sampling_prob=rate, value_discretization_interval=grid)
    return found.compute_mixture(found, 0.5)


@pytest.mark.parametrize(
    ("noise", "rate", "count"),
    [(1.0, 0.1, 1), (1.0, 0.1, 2), (0.3, 1e-3, 7), (0.05, 1e-9, 40), (2.0, 0.01, 3000), (30.0, 0.5, 50), (5.0, 1.0, 1)],
)
@pytest.mark.parametrize("delta", [1e-9, 1e-5])
def test_compositions_agree_with_dp_accounting(noise: float, rate: float, count: int, delta: float) -> None:
    grid = grid_of([(noise, rate, count)])
    expected = single(noise, rate, grid).self_compose(count).get_epsilon_for_delta(delta - loss_distributions.ROUNDING)
    assert epsilon_at([(noise, rate, count)], delta) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_a_composition_is_that_of_its_parts() -> None:
    (pmf, _) = loss_distributions._pmfs(single(1.0, 0.2, 2**-8))
    once, twice = loss_distributions._composed(pmf, 3), loss_distributions._composed(pmf, 6)
    together = once.compose(once)
    offset = twice._lower_loss - together._lower_loss
    assert offset >= 0, "the tails of the sum are cut off"
    np.testing.assert_allclose(twice._probs, together._probs[offset : offset + twice.size], atol=1e-14)
    assert twice._infinity_mass >= 2 * pmf._infinity_mass


@pytest.mark.parametrize(
    ("noise", "rate", "count"),
    [(89.28, 0.00312, 4_000_000), (3.0, 1e-4, 10_000_000), (1000.0, 0.5, 10_000_000), (0.3, 1e-8, 1_000_000)],
)
def test_no_composition_has_many_more_points_than_its_grid_allows_for(noise: float, rate: float, count: int) -> None:
    kinds = (noise, rate, count)
    composed = loss_distributions._repeated(*kinds, grid_of([kinds]))
    assert num_points(composed) <= 2 * 2 * MAX_COMPOSED_POINTS  # two distributions, on a grid rounded to a power of 2


def test_a_composition_with_a_long_tail_gets_a_coarser_grid_on_which_the_bound_is_higher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds = [(1.155, 2e-6, 20_000)]
    composed = loss_distributions._repeated(*kinds[0], grid_of(kinds))
    fine = epsilon_at(kinds, 1e-6)
    cache = Cache(2**22)
    monkeypatch.setattr(loss_distributions, "_repetitions", cache)
    monkeypatch.setattr(loss_distributions, "MAX_REPEATED_POINTS", num_points(composed) // 6)
    assert fine < epsilon_at(kinds, 1e-6) < 1.05 * fine
    assert 0 < cache.num_points <= num_points(composed) / 3


def test_a_composition_whose_mass_overflows_is_not_private() -> None:
    (pmf, _) = loss_distributions._pmfs(single(1.0, 0.1, 2**-6))
    more = DensePLDPmf(2**-6, 0, np.full(2, 0.7), pmf._infinity_mass, True)
    assert loss_distributions._composed(more, 10_000)._infinity_mass == 1.0


def test_a_cache_is_limited_by_size_and_keeps_what_was_used_last() -> None:
    large, small = single(1.0, 0.1, 2**-10), single(1.0, 0.1, 2**-6)
    cache = Cache(max_points=num_points(large) + 2 * num_points(small))
    assert num_points(large) > 10 * num_points(small) > 0
    for key, found in {"large": large, "a": small, "b": small, "large again": large}.items():
        assert cache.get(key.removesuffix(" again"), lambda found=found: found) is found
    assert cache.num_misses == 3
    cache.get("c", lambda: small)
    cache.get("large", lambda: large)
    assert (cache.num_misses, cache.num_points) == (4, num_points(large) + 2 * num_points(small))
    cache.get("a", lambda: small)
    assert cache.num_misses == 5, "a was not used for the longest time"
    cache.get("another large", lambda: large)
    assert cache.num_points <= num_points(large) + 2 * num_points(small)


def test_a_distribution_that_is_larger_than_the_cache_is_not_kept() -> None:
    found = single(1.0, 0.1, 2**-8)
    cache = Cache(max_points=num_points(found) - 1)
    small = single(1.0, 0.1, 2**-6)
    cache.get("small", lambda: small)
    assert cache.get("a", lambda: found) is found
    assert cache.num_points == num_points(small)


def test_the_caches_stay_within_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(max_points=200_000)
    monkeypatch.setattr(loss_distributions, "_repetitions", cache)
    for count in range(1, 12):
        epsilon_at([(20.0, 0.01, count * 1_000)], 1e-6)
    assert 0 < cache.num_points <= 200_000
    assert cache.num_misses == 11


def test_a_composition_ends_when_the_deadline_of_its_caller_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [(2.0 + number, 0.1, 1) for number in range(5)]
    with deadline.until(time.monotonic() - 1), pytest.raises(DeadlineExceeded):
        epsilon_at(kinds, 1e-6)
    repeated, num_composed = loss_distributions._repeated, 0

    def expiring(noise: float, rate: float, count: int, grid: float) -> PrivacyLossDistribution:
        nonlocal num_composed
        num_composed += 1
        expired = num_composed == 3
        monkeypatch.setattr(deadline, "within", lambda timeout_s: 0.0 if expired else timeout_s)
        return repeated(noise, rate, count, grid)

    monkeypatch.setattr(loss_distributions, "_repeated", expiring)
    with pytest.raises(DeadlineExceeded):
        epsilon_at(kinds, 1e-6)
    assert num_composed == 3
    monkeypatch.undo()
    assert epsilon_at(kinds, 1e-6) > 0, "the slots are free again"


def test_a_composition_does_not_wait_for_others_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_distributions, "_SLOT_S", 0.01)
    slots = [loss_distributions._slots.acquire() for _ in range(loss_distributions._MAX_CONCURRENT)]
    try:
        with pytest.raises(Unavailable) as caught:
            epsilon_at([(2.0, 0.1, 1)], 1e-6)
    finally:
        for _ in slots:
            loss_distributions._slots.release()
    assert caught.value.reason == "ACCOUNTING_BUSY"
    assert epsilon_at([(2.0, 0.1, 1)], 1e-6) > 0
