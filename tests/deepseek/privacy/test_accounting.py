"""Epsilon against closed forms, a published table, other accountants and finer grids."""

import math
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
from dp_accounting import ComposedDpEvent, GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant

from benchmarks.accounting_cases import compare, random_cases
from common.errors import InvalidArgument
from deepseek.privacy import loss_distributions
from deepseek.privacy.accounting import epsilon, max_releases, noise_multiplier_for
from deepseek.privacy.releases import MAX_COUNT, Release
from tests.deepseek.privacy.gaussian_oracle import exact_epsilon


@pytest.mark.parametrize(
    ("noise", "count", "delta", "expected"),
    [(1, 1, 1e-5, 4.37718), (5, 1, 1e-6, 0.83412), (10, 100, 1e-6, 4.886554)],
)
def test_without_sampling_epsilon_is_the_exact_value(noise: float, count: int, delta: float, expected: float) -> None:
    assert exact_epsilon(noise / math.sqrt(count), delta) == pytest.approx(expected, abs=5e-6)
    assert 0 <= epsilon([Release(noise, count=count)], delta) - expected < 1e-3


@pytest.mark.parametrize("noise", [0.6, 2.0, 30.0])
@pytest.mark.parametrize("count", [1, 50])
@pytest.mark.parametrize("delta", [1e-10, 1e-7, 1e-3])
def test_without_sampling_epsilon_is_just_above_the_closed_form(noise: float, count: int, delta: float) -> None:
    exact = exact_epsilon(noise / math.sqrt(count), delta)
    assert exact <= epsilon([Release(noise, count=count)], delta) <= exact * 1.002


@pytest.mark.parametrize(("count", "loss"), [(300_000, 4.0), (600_000, 2.0)])
def test_rounding_errors_of_many_releases_do_not_lower_epsilon(count: int, loss: float) -> None:
    exact = exact_epsilon(1 / loss, 1e-10)
    assert exact <= loss_distributions.epsilon_at([(math.sqrt(count) / loss, 1.0, count)], 1e-10) <= 1.1 * exact


def test_at_more_releases_than_rounding_errors_allow_epsilon_is_infinite() -> None:
    assert epsilon([Release(1e4, 0.5, 1_000_000)], 1e-10) == math.inf
    assert epsilon([Release(1e4, 0.5, 900_000)], 1e-10) < math.inf


@pytest.mark.parametrize(
    ("noise", "rate", "count", "delta", "expected"),
    [
        (4, 0.01, 10_000, 1e-5, 0.9470),
        (1.1, 256 / 60_000, 3_510, 1e-5, 1.1329),
        (1, 0.01, 1_000, 1e-5, 1.8282),
        (1, 0.1, 100, 1e-6, 8.0586),
        (10, 1, 100, 1e-6, 4.88655),
    ],
)
def test_reference_values_are_reproduced(noise: float, rate: float, count: int, delta: float, expected: float) -> None:
    assert epsilon([Release(noise, rate, count)], delta) == pytest.approx(expected, abs=3e-4)


FAST_CASES = [case for case in random_cases(40) if case.noise_multiplier > 2.5][:10]


@pytest.mark.parametrize("number", range(len(FAST_CASES)))
def test_epsilon_lies_between_bounds_at_a_finer_grid(number: int) -> None:
    found = compare(FAST_CASES[number])
    assert max(found["optimistic"], found["prv_lower"]) <= found["ours"] <= 1.01 * found["fine_pessimistic"]


def test_different_releases_compose() -> None:
    releases = [Release(1.0, 0.1, 20), Release(2.0, 0.5, 10), Release(40.0, 0.02, 500), Release(3.0, count=2)]
    events = [
        SelfComposedDpEvent(PoissonSampledDpEvent(r.sampling_rate, GaussianDpEvent(r.noise_multiplier)), r.count)
        for r in releases
    ]
    accountant = PLDAccountant(value_discretization_interval=5e-5).compose(ComposedDpEvent(events))
    theirs = accountant.get_epsilon(1e-6)
    assert epsilon(releases, 1e-6) == pytest.approx(theirs, rel=1e-4)
    assert epsilon(releases, 1e-6) > max(epsilon([release], 1e-6) for release in releases)


def test_gaussians_without_sampling_compose_exactly() -> None:
    noises = [3.0, 5.0, 5.0, 20.0]
    together = sum(noise**-2 for noise in noises) ** -0.5
    assert epsilon([Release(noise) for noise in noises], 1e-6) == pytest.approx(exact_epsilon(together, 1e-6), abs=1e-3)


def test_order_and_grouping_do_not_matter() -> None:
    first, second = Release(1.5, 0.2), Release(4.0, 0.7)
    expected = epsilon([Release(1.5, 0.2, 3), Release(4.0, 0.7, 2)], 1e-5)
    assert epsilon([second, first, first, second, first], 1e-5) == expected


def test_nothing_released_costs_nothing() -> None:
    assert epsilon([], 1e-6) == 0.0


@pytest.mark.parametrize("release", [Release(0.0), Release(0.0, 1e-3), Release(1e-300), Release(0.05, 0.5, MAX_COUNT)])
def test_without_noise_epsilon_is_infinite(release: Release) -> None:
    assert epsilon([Release(10.0), release], 1e-6) == math.inf


@pytest.mark.parametrize(
    "release",
    [
        Release(1e300, 1e-300, MAX_COUNT),
        Release(1e6, 1.0),
        Release(1.0, 1 - 1e-16, 3),
        Release(0.06, 1e-9, 10),
        Release(0.3, 0.99999, 2),
    ],
)
def test_extreme_parameters_give_a_bound(release: Release) -> None:
    without_sampling = epsilon([Release(release.noise_multiplier, count=release.count)], 1e-6)
    assert 0 <= epsilon([release], 1e-6) <= without_sampling * (1 + 1e-3)


def test_every_further_release_costs_more() -> None:
    spent = [epsilon([Release(1.0, 0.1, count), Release(3.0)], 1e-6) for count in range(1, 12)]
    assert all(before < after for before, after in pairwise(spent))


def test_less_noise_or_more_sampling_costs_more() -> None:
    assert epsilon([Release(1.0, 0.1)], 1e-6) > epsilon([Release(1.1, 0.1)], 1e-6)
    assert epsilon([Release(1.0, 0.11)], 1e-6) > epsilon([Release(1.0, 0.1)], 1e-6)
    assert epsilon([Release(1.0, 0.1)], 1e-7) > epsilon([Release(1.0, 0.1)], 1e-6)


def test_a_further_equal_release_reuses_the_distribution_of_one_release() -> None:
    epsilon([Release(1.37, 0.13)], 1e-6)
    before = loss_distributions._singles.num_misses
    for count in range(2, 8):
        epsilon([Release(1.37, 0.13, count)], 1e-6)
    assert loss_distributions._singles.num_misses == before


@pytest.mark.parametrize(
    ("target", "rate", "count"), [(3.0, 1.0, 1), (3.0, 1.0, 60), (0.1, 0.05, 40), (8.0, 0.3, 100), (120.0, 0.5, 2)]
)
def test_the_noise_for_an_epsilon_is_enough_and_not_too_much(target: float, rate: float, count: int) -> None:
    noise = noise_multiplier_for(target, 1e-6, rate, count)
    assert epsilon([Release(noise, rate, count)], 1e-6) <= target
    assert epsilon([Release(noise * 0.998, rate, count)], 1e-6) > target


def test_an_epsilon_that_noise_cannot_reach_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no noise multiplier") as caught:
        noise_multiplier_for(1e-9, 1e-6, 1.0, 1)
    assert (caught.value.reason, caught.value.field) == ("BAD_EPSILON", "epsilon")


@pytest.mark.parametrize(
    ("budget", "spent", "release"),
    [
        (3.0, [], Release(10.0)),
        (8.0, [], Release(1.0, 0.1)),
        (8.0, [Release(1.0, 0.1, 50), Release(5.0)], Release(2.0, 0.2)),
        (3.0, [Release(4.0)], Release(20.0, 0.05, 7)),
        (1.0, [], Release(0.9, 0.005)),
    ],
)
def test_as_many_releases_fit_as_the_budget_allows(budget: float, spent: list[Release], release: Release) -> None:
    fitting = max_releases(budget, 1e-6, spent, release)

    def after(times: int) -> float:
        further = Release(release.noise_multiplier, release.sampling_rate, release.count * times)
        return epsilon([*spent, further], 1e-6)

    assert fitting > 0
    assert after(fitting) <= budget < after(fitting + 1)


def test_nothing_fits_into_a_budget_that_is_used_up() -> None:
    assert max_releases(1.0, 1e-6, [Release(1.0)], Release(1000.0)) == 0
    assert max_releases(0.01, 1e-6, [], Release(10.0)) == 0
    assert max_releases(100.0, 1e-6, [], Release(0.0)) == 0


def test_the_number_of_fitting_releases_has_a_limit() -> None:
    assert max_releases(1.0, 1e-3, [], Release(1e6, 1e-4, 1_000)) == MAX_COUNT // 1_000


@pytest.mark.parametrize(
    ("call", "reason", "field"),
    [
        (lambda: Release(-1.0), "BAD_NOISE", "noise_multiplier"),
        (lambda: Release(math.nan), "BAD_NOISE", "noise_multiplier"),
        (lambda: Release(math.inf), "BAD_NOISE", "noise_multiplier"),
        (lambda: Release(10**400), "BAD_NOISE", "noise_multiplier"),
        (lambda: Release("1"), "BAD_NOISE", "noise_multiplier"),  # type: ignore[arg-type]
        (lambda: Release(True), "BAD_NOISE", "noise_multiplier"),
        (lambda: Release(1.0, 0.0), "BAD_RATE", "sampling_rate"),
        (lambda: Release(1.0, 1.1), "BAD_RATE", "sampling_rate"),
        (lambda: Release(1.0, math.nan), "BAD_RATE", "sampling_rate"),
        (lambda: Release(1.0, 0.5, 0), "BAD_COUNT", "count"),
        (lambda: Release(1.0, 0.5, MAX_COUNT + 1), "BAD_COUNT", "count"),
        (lambda: Release(1.0, 0.5, 1.5), "BAD_COUNT", "count"),  # type: ignore[arg-type]
        (lambda: epsilon([Release(1.0)], 0.0), "BAD_DELTA", "delta"),
        (lambda: epsilon([Release(1.0)], 1.0), "BAD_DELTA", "delta"),
        (lambda: epsilon([], math.nan), "BAD_DELTA", "delta"),
        (lambda: epsilon([], 1e-11), "BAD_DELTA", "delta"),
        (lambda: noise_multiplier_for(0.0, 1e-6, 1.0, 1), "BAD_EPSILON", "epsilon"),
        (lambda: noise_multiplier_for(math.inf, 1e-6, 1.0, 1), "BAD_EPSILON", "epsilon"),
        (lambda: noise_multiplier_for(1.0, 1e-6, 0.0, 1), "BAD_RATE", "sampling_rate"),
        (lambda: noise_multiplier_for(1.0, 1e-6, 1.0, 0), "BAD_COUNT", "count"),
        (lambda: max_releases(-1.0, 1e-6, [], Release(1.0)), "BAD_EPSILON", "budget_epsilon"),
        (lambda: max_releases(1.0, 2.0, [], Release(1.0)), "BAD_DELTA", "delta"),
    ],
)
def test_bad_input_is_refused(call: Any, reason: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        call()
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_describing_releases_does_not_load_scipy() -> None:
    code = (
        "import deepseek.privacy.accounting, sys; sys.exit(any(m in sys.modules for m in ('scipy', 'dp_accounting')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
