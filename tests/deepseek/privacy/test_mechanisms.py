"""The cohorts and the noise that are really drawn have the sampling rate and the deviation that accounting assumes.

The operating system's random numbers cannot be seeded. The probability that a check fails although the code is correct
is below 1e-9. The tests also show that the checks detect relevant deviations.
"""

import math
import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from common.errors import InvalidArgument
from deepseek.privacy.noise import gaussian_noise
from deepseek.privacy.sampling import poisson_sample

FALSE_ALARM = 1e-11
NUM_MEMBERS, NUM_ROUNDS = 150, 3_000


@pytest.fixture(scope="module")
def cohorts() -> list[tuple[str, ...]]:
    population = [f"member-{number}" for number in range(NUM_MEMBERS)]
    return [poisson_sample(population, 0.07) for _ in range(NUM_ROUNDS)]


@pytest.fixture(scope="module")
def noise() -> npt.NDArray[np.float64]:
    return gaussian_noise((20, 15_000), 2.5)


def p_of_rate(cohorts: Sequence[Sequence[str]], rate: float) -> float:
    """Returns the smallest of four p-values for independent sampling of every member with a rate."""
    taken_RN = np.zeros((NUM_ROUNDS, NUM_MEMBERS), bool)
    for number, cohort in enumerate(cohorts):
        taken_RN[number, [int(member.removeprefix("member-")) for member in cohort]] = True
    cells = NUM_ROUNDS * NUM_MEMBERS
    variance = rate * (1 - rate)
    total = stats.binomtest(int(taken_RN.sum()), cells, rate).pvalue
    by_round = ((taken_RN.sum(1) - NUM_MEMBERS * rate) ** 2).sum() / (NUM_MEMBERS * variance)
    by_member = ((taken_RN.sum(0) - NUM_ROUNDS * rate) ** 2).sum() / (NUM_ROUNDS * variance)
    neighbours = (taken_RN[:, 1:] - rate) * (taken_RN[:, :-1] - rate)
    correlation = neighbours.sum() / (variance * math.sqrt(neighbours.size))
    return min(
        total,
        2 * min(stats.chi2.sf(by_round, NUM_ROUNDS), stats.chi2.cdf(by_round, NUM_ROUNDS)),
        2 * min(stats.chi2.sf(by_member, NUM_MEMBERS), stats.chi2.cdf(by_member, NUM_MEMBERS)),
        2 * stats.norm.sf(abs(correlation)),
    )


def p_of_noise(noise: npt.NDArray[np.float64], standard_deviation: float) -> float:
    """Returns the smallest of four p-values for independent Gaussian noise of a standard deviation."""
    scaled = noise.ravel() / standard_deviation
    squares = float(np.square(scaled).sum())
    correlation = float((scaled[1:] * scaled[:-1]).sum()) / math.sqrt(scaled.size)
    in_tail = int((abs(scaled) > 4).sum())
    return min(
        stats.kstest(scaled, "norm").pvalue,
        2 * min(stats.chi2.sf(squares, scaled.size), stats.chi2.cdf(squares, scaled.size)),
        2 * stats.norm.sf(abs(correlation)),
        stats.binomtest(in_tail, scaled.size, 2 * stats.norm.sf(4)).pvalue,
    )


def test_cohorts_fit_the_sampling_rate(cohorts: list[tuple[str, ...]]) -> None:
    assert p_of_rate(cohorts, 0.07) > FALSE_ALARM


def test_the_check_detects_another_rate_and_dependent_members(cohorts: list[tuple[str, ...]]) -> None:
    assert p_of_rate(cohorts, 0.08) < FALSE_ALARM
    fixed_size = [random.sample([f"member-{n}" for n in range(NUM_MEMBERS)], 10) for _ in range(NUM_ROUNDS)]
    assert p_of_rate(fixed_size, 10 / NUM_MEMBERS) < FALSE_ALARM
    pairs = [
        [f"member-{n + k}" for n in range(0, NUM_MEMBERS, 2) if random.random() < 0.5 for k in (0, 1)] for _ in cohorts
    ]
    assert p_of_rate(pairs, 0.5) < FALSE_ALARM


def test_noise_fits_the_standard_deviation(noise: npt.NDArray[np.float64]) -> None:
    assert noise.shape == (20, 15_000)
    assert noise.dtype == np.float64
    assert p_of_noise(noise, 2.5) > FALSE_ALARM


def test_the_check_detects_other_noise(noise: npt.NDArray[np.float64]) -> None:
    assert p_of_noise(noise, 2.55) < FALSE_ALARM
    assert p_of_noise(np.repeat(noise, 2), 2.5) < FALSE_ALARM
    uniform = np.random.default_rng().uniform(-math.sqrt(3), math.sqrt(3), noise.shape)
    assert p_of_noise(uniform, 1.0) < FALSE_ALARM


def test_noise_never_repeats(noise: npt.NDArray[np.float64]) -> None:
    again = gaussian_noise(noise.shape, 2.5)
    assert np.unique(np.concatenate([noise.ravel(), again.ravel()])).size > 2 * noise.size - 3


def test_noise_is_half_the_sum_of_four_box_muller_samples() -> None:
    words = np.frombuffer(random.Random(5).randbytes(64 * 3), "<u8").reshape(8, 3)
    expected = [
        sum(
            math.sqrt(-2 * math.log((int(words[k, i]) + 1) / 2**64))
            * math.cos(math.tau * (int(words[k + 4, i]) / 2**64))
            for k in range(4)
        )
        / 2
        for i in range(3)
    ]
    np.testing.assert_allclose(gaussian_noise((3,), 2.0, random.Random(5)), 2 * np.array(expected), rtol=1e-12)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (2, 3)])
def test_noise_has_the_shape_asked_for(shape: tuple[int, ...]) -> None:
    assert gaussian_noise(shape, 1.0).shape == shape


def test_no_standard_deviation_is_no_noise() -> None:
    assert not gaussian_noise((4,), 0.0).any()


def test_at_a_rate_of_one_everyone_is_sampled() -> None:
    assert poisson_sample(["a", "b", "c"], 1.0) == ("a", "b", "c")


def test_an_empty_population_gives_an_empty_cohort() -> None:
    assert poisson_sample([], 0.5) == ()


def test_a_cohort_keeps_the_order_of_the_population() -> None:
    population = [f"{number:03}" for number in range(200)]
    cohort = poisson_sample(population, 0.5)
    assert list(cohort) == sorted(cohort)


def test_the_same_source_gives_the_same_draws() -> None:
    population = [str(number) for number in range(100)]
    assert poisson_sample(population, 0.3, random.Random(1)) == poisson_sample(population, 0.3, random.Random(1))


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        poisson_sample(["a"], 1.5)
    assert (caught.value.reason, caught.value.field) == ("BAD_RATE", "rate")
    with pytest.raises(InvalidArgument) as caught:
        gaussian_noise((1,), -1.0)
    assert (caught.value.reason, caught.value.field) == ("BAD_NOISE", "standard_deviation")
