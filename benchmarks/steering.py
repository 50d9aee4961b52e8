"""Measures how long a directive takes to reach a run, what steering costs, and how good the default policy is.

*Latency*: directives at random moments to a run on an embedded mesh; the time until each is applied, less one step.
*Overhead*: the duration of a training with steering relative to one whose loop has none of it, in interleaved rounds.
*Gap*: small networks learn digits, with correct labels and with 40 % random ones, at three learning rates each; the
largest distance of the default policy from the best of {constant, plateau, cosine}. `--quick` certifies nothing.
"""

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from benchmarks.report import Record, Rounds, certify, measure_all, print_figures, progress_file, provenance
from benchmarks.statistics import median_interval
from benchmarks.steering_latency import latencies
from benchmarks.steering_overhead import overhead, ratios
from benchmarks.steering_tasks import EPOCHS, points
from deepseek.steering.policy import DEFAULT

SEEDS = tuple(range(4101, 4109))
"""Seeds of the certified runs. The policy and its defaults were chosen with others."""
QUICK_SEEDS = (11,)
CELLS = tuple(itertools.product(("digits", "noisy digits"), (0.003, 0.03, 0.3)))
"""Tasks and learning rates. At 0.003, the legacy rule loses several points against a constant rate."""
QUICK_CELLS = (("digits", 0.003), ("noisy digits", 0.003))
POLICIES = ("constant", DEFAULT, "cosine", "legacy_threshold")
ALTERNATIVES = ("constant", "plateau", "cosine")
MAX_P99_MS, MAX_OVERHEAD, MAX_GAP = 50.0, 2.0, 1.0

Points = Mapping[tuple[str, float, str], Sequence[float]]
"""Percentages of recognized images by task, learning rate and policy, in the order of the seeds."""


def worst_gap(measured: Points, which: Sequence[int]) -> dict[tuple[str, float], float]:
    """Returns by how many points the default policy is worse than the best alternative, for each cell.

    Args:
        measured: Points of each seed.
        which: Indices of the seeds over which to average.

    >>> cell = {("digits", 0.1, name): [points] for name, points in zip(ALTERNATIVES, [90.0, 89.5, 88.0])}
    >>> worst_gap(cell, [0])
    {('digits', 0.1): 0.5}
    """
    means: dict[tuple[str, float], dict[str, float]] = {}
    for (task, rate, policy), found in measured.items():
        means.setdefault((task, rate), {})[policy] = statistics.fmean(found[i] for i in which)
    return {cell: max(one[name] for name in ALTERNATIVES) - one[DEFAULT] for cell, one in means.items()}


def gaps(measured: Points) -> dict[str, Any]:
    """Returns the largest gap, its upper bound by a bootstrap over the seeds, and the mean points of each cell."""
    num_seeds = len(next(iter(measured.values())))
    gap = worst_gap(measured, range(num_seeds))
    draws = np.random.default_rng(0).integers(num_seeds, size=(2000, num_seeds))
    drawn = [max(worst_gap(measured, which).values()) for which in draws.tolist()]
    return {
        "worst_gap_points": max(gap.values()),
        "worst_gap_points_upper": float(np.quantile(drawn, 0.95)),
        "num_seeds": num_seeds,
        "cells": [
            {
                "task": task,
                "learning_rate": rate,
                "gap_points": gap[task, rate],
                **{name: statistics.fmean(measured[task, rate, name]) for name in POLICIES},
            }
            for task, rate in gap
        ],
    }


def quantile_upper(ordered: Sequence[float], quantile: float, level: float = 0.05) -> float:
    """Returns an upper bound of a quantile by order statistics, or the maximum if the sample is too small for one.

    Args:
        ordered: Sample, in ascending order.
        quantile: The quantile, e.g. 0.99.
        level: Probability that the bound is too low.

    >>> quantile_upper(list(range(1, 601)), 0.99)
    599
    """
    size, below = len(ordered), 0.0
    for k in range(size):  # the bound is the order statistic k + 1 if at most k values are below the quantile
        log_p = math.lgamma(size + 1) - math.lgamma(k + 1) - math.lgamma(size - k + 1)
        below += math.exp(log_p + k * math.log(quantile) + (size - k) * math.log1p(-quantile))
        if below >= 1 - level:
            return ordered[k]
    return ordered[-1]


def summary(reached: Mapping[str, Any], rounds: Sequence[Mapping[str, float]], measured: Points) -> dict[str, Any]:
    """Returns the figures of all parts."""
    over = sorted(latency - step for latency, step in zip(reached["latencies_ms"], reached["steps_ms"], strict=True))
    delivered = sorted(reached["delivered_ms"])
    result: dict[str, Any] = {
        "p99_ms_over_step": over[math.ceil(0.99 * len(over)) - 1],
        "p99_ms_over_step_upper": quantile_upper(over, 0.99),
        "median_ms_over_step": statistics.median(over),
        "p99_ms_to_worker": delivered[math.ceil(0.99 * len(delivered)) - 1],
        "num_directives": len(over),
        "step_ms": statistics.median(reached["steps_ms"]),
        "noise_p99_ms": reached["noise_p99_ms"],
        "num_rounds": len(rounds),
    }
    for name, form, clock in (
        ("overhead_percent", "policy", ""),
        ("overhead_idle_percent", "idle", ""),
        ("overhead_cpu_percent", "policy", "_cpu"),
        ("overhead_idle_cpu_percent", "idle", "_cpu"),
    ):
        result[name], result[f"{name}_interval"] = median_interval(ratios(rounds, form, clock))
    result["overhead_hooks_percent"] = statistics.median(one["hooks_percent"] for one in rounds)
    return {**result, **gaps(measured)}


def _case(record: Record) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("task", "learning_rate", "policy", "seed", "epochs"))


def main() -> None:
    """Measures, prints the result, and certifies it if this was a full run on a clean working tree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steering", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, as the last line")
    parser.add_argument("--quick", action="store_true", help="measure little, for at most a minute; certify nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quick, began = arguments.quick, time.monotonic()
    origin = provenance()
    kind = "quick" if quick else "full"
    progress, trained = progress_file("steering", origin, kind), progress_file("steering", origin, f"gap-{kind}")
    if quick:
        for file in (progress, trained):
            file.unlink(missing_ok=True)
    parts = Rounds(progress)
    num_directives, max_s = (40, 6.0) if quick else (600, math.inf)
    reached = parts.measure("latency", 0, lambda: latencies(num_directives, SEEDS[0], max_s))
    overhead(0, epochs=1)  # warms up
    epochs, num_rounds = (1, 2) if quick else (12, 40)
    rounds = [parts.measure("overhead", i, partial(overhead, i, epochs)) for i in range(num_rounds)]
    cells, seeds = (QUICK_CELLS, QUICK_SEEDS) if quick else (CELLS, SEEDS)
    cases = [
        (*cell, policy, seed, 2 if quick else EPOCHS)
        for cell, policy, seed in itertools.product(cells, POLICIES, seeds)
    ]
    with ThreadPoolExecutor(1) if quick else ProcessPoolExecutor(2, get_context("forkserver")) as pool:
        records = {_case(one): one for one in measure_all(pool, points, cases, case_of=_case, cache=trained)}
    measured: dict[tuple[str, float, str], list[float]] = {}
    for case in cases:
        measured.setdefault((case[0], case[1], case[2]), []).append(records[case]["points"])
    minutes = (time.monotonic() - began) / 60
    result = {"n": len(seeds), "quick": quick, **summary(reached, rounds, measured), "minutes": minutes, **origin}
    passed = (
        result["p99_ms_over_step"] <= MAX_P99_MS
        and result["overhead_percent"] < MAX_OVERHEAD
        and result["worst_gap_points"] <= MAX_GAP
    )
    for file in (progress, trained):
        file.unlink(missing_ok=True)
    certify("steering", result, full=not quick)
    if arguments.json:
        print(json.dumps(result))
    else:
        print_figures(result)
        print("within the limits" if passed else "not within the limits")


if __name__ == "__main__":
    main()
