"""The steering benchmark compares the default policy with the best one of each cell, and directives with one step."""

import itertools
import json

import pytest

from benchmarks import steering
from benchmarks.steering_noise import measured_noise
from benchmarks.steering_overhead import FORMS, overhead


def test_a_gap_is_the_distance_from_the_best_of_the_means_of_a_cell() -> None:
    measured = {
        ("digits", 0.1, "constant"): [90.0, 92.0],
        ("digits", 0.1, "plateau"): [89.0, 90.0],
        ("digits", 0.1, "cosine"): [80.0, 80.0],
        ("digits", 0.1, "legacy_threshold"): [99.0, 99.0],
        ("noisy digits", 0.1, "constant"): [60.0, 60.0],
        ("noisy digits", 0.1, "plateau"): [75.0, 75.0],
        ("noisy digits", 0.1, "cosine"): [70.0, 70.0],
        ("noisy digits", 0.1, "legacy_threshold"): [10.0, 10.0],
    }
    found = steering.gaps(measured)
    assert found["worst_gap_points"] == pytest.approx(1.5)
    assert [cell["gap_points"] for cell in found["cells"]] == pytest.approx([1.5, 0.0])
    assert found["worst_gap_points_upper"] == pytest.approx(2.0), "that of the worse seed alone"
    assert found["num_seeds"] == 2


def test_a_latency_counts_beyond_its_step_and_an_overhead_within_a_round() -> None:
    latencies = [float(number) for number in range(1, 101)]
    reached = {"delivered_ms": latencies, "latencies_ms": latencies, "steps_ms": [20.0] * 100, "noise_p99_ms": 3.0}
    rounds = [
        {
            f"{form}{clock}_s": seconds * factor
            for (form, factor), clock in itertools.product(forms.items(), ("", "_cpu"))
        }
        for seconds, forms in (
            (1.0, {"without": 1.0, "idle": 1.0, "policy": 1.01}),
            (2.0, {"without": 1.0, "idle": 1.0, "policy": 1.02}),
            (3.0, {"without": 1.0, "idle": 1.0, "policy": 1.0}),
        )
    ]
    for one in rounds:
        one["hooks_percent"] = 0.5
    measured = {("digits", 0.1, name): [90.0] for name in steering.POLICIES}
    result = steering.summary(reached, rounds, measured)
    assert result["p99_ms_over_step"] == 79.0
    assert (result["p99_ms_to_worker"], result["noise_p99_ms"]) == (99.0, 3.0)
    assert result["overhead_percent"] == result["overhead_cpu_percent"] == pytest.approx(1.0)
    assert result["overhead_hooks_percent"] == 0.5
    assert result["overhead_idle_percent"] == pytest.approx(0.0)
    assert result["overhead_percent_interval"] == pytest.approx([0.0, 2.0])
    assert (result["worst_gap_points"], result["num_directives"], result["num_rounds"]) == (0.0, 100, 3)
    assert json.loads(json.dumps(result)) == result


def test_the_upper_bound_of_a_percentile_needs_enough_directives() -> None:
    assert steering.quantile_upper(range(1, 101), 0.99) == 100, "too few for a bound"
    assert steering.quantile_upper(range(1, 601), 0.99) == 599
    assert steering.quantile_upper(range(1, 10_001), 0.5) == pytest.approx(5083, abs=2)


def test_the_figures_are_of_seeds_with_which_nothing_was_chosen() -> None:
    assert not set(steering.SEEDS) & {*steering.QUICK_SEEDS, 11, 12, 13, 14, 15}
    assert len(steering.CELLS) == 6
    assert set(steering.QUICK_CELLS) <= set(steering.CELLS), "the two in which the legacy rule is known to lose"


def test_an_overhead_is_measured_in_each_form() -> None:
    found = overhead(0, epochs=1)
    assert set(found) == {"hooks_percent", *(f"{form}{clock}_s" for form in FORMS for clock in ("", "_cpu"))}
    assert all(seconds > 0 for seconds in found.values())


def test_the_noise_is_measured_beside_other_work() -> None:
    with measured_noise() as noise:
        assert noise == []
    assert min(noise) > 0
