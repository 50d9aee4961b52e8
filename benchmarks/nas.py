"""Measures architecture search: is a searched network smaller and more accurate than residual networks by hand?

On each data set, ResNet-8 and ResNet-14 are tuned; the better one on validation images is the baseline. A search looks
for a network with at most 64 % of its parameters. Then the baseline, the searched network, a residual network that is
scaled to as many parameters, and three controls (a random search, and the networks of the pool with the most parameters
and the most operations) are trained with the same seeds and compared on test images. `nas_protocol` states who is tuned
for how long. A full run takes hours on two cores. It may be killed at any moment, and the same command resumes it.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from benchmarks.nas_figure import write_figure
from benchmarks.nas_networks import build, cost
from benchmarks.nas_protocol import SHARE_OF_PARAMETERS, Plan, Protocol, Tuned, gain
from benchmarks.nas_training import RECIPES, Size
from benchmarks.report import ROOT, certify, print_figures, progress_file, provenance
from common.cores import num_cores
from common.processes import die_with
from deepseek.nas.conv_space import ConvSpace, StageChoices
from deepseek.nas.cost import latencies_ms
from deepseek.nas.halving import Rung
from deepseek.nas.records import Records
from deepseek.nas.search_settings import Settings

_CHOICES = StageChoices(expansions=(1, 2, 3), skips=(True,), poolings=("stride", "max"))
SPACE = ConvSpace(
    stems=(16, 24, 32),
    stages=(
        replace(_CHOICES, depths=(1, 2), widths=(16, 24, 32), poolings=("none", "stride", "max")),
        replace(_CHOICES, widths=(32, 40, 48, 64)),
        replace(_CHOICES, widths=(48, 64, 96)),
    ),
)
"""The space of the search, narrower than the default: chosen by a few trainings on validation images."""
SETTINGS = Settings(
    pool=200,
    population=16,
    generations=3,
    offspring=4,
    epochs=2,
    rungs=(Rung(6, 6), Rung(2, 20, 2)),
    objectives=("accuracy", "latency"),
    max_macs=6_000_000,
    seed=1,
)
FASHION = Plan(
    Size("fashion", 54_000, 5_400, 10_000),
    units=20,
    settings=SETTINGS,
    tuning_s=150.0,
    baseline_s=690.0,
    num_recipes=len(RECIPES),
    num_seeds=10,
    num_control_seeds=5,
)
PLANS = {
    "fashion": FASHION,
    # Digits are easier: every training sees each image once, and all times are shorter.
    "mnist": replace(
        FASHION,
        size=replace(FASHION.size, data="mnist"),
        units=10,
        settings=replace(SETTINGS, epochs=1, rungs=(Rung(6, 3), Rung(2, 10, 2))),
        tuning_s=90.0,
        baseline_s=420.0,
    ),
}

QUICK = Plan(
    Size("mnist", 128, 64, 100),
    units=2,
    settings=Settings(
        pool=8,
        population=4,
        generations=2,
        offspring=1,
        epochs=1,
        rungs=(Rung(2, 2),),
        objectives=("accuracy", "parameters", "macs"),
        seed=1,
    ),
    tuning_s=0.0,
    baseline_s=0.0,
    num_recipes=2,
    num_seeds=2,
    num_control_seeds=1,
)


def measure(plan: Plan, protocol: Protocol) -> dict[str, Any]:
    """Carries out a plan, and returns its figures."""
    limit = int(SHARE_OF_PARAMETERS * cost(protocol.baseline(plan.baseline_s).network).parameters)
    winner, search_s = protocol.searched(limit)
    chosen = {
        "searched": winner,
        "baseline": protocol.baseline(max(plan.baseline_s, search_s) if plan.baseline_s else 0.0),
        "width_scaled": protocol.rival(cost(winner.network).parameters),
        "random": protocol.searched(limit, kind="random")[0],
        "most_parameters": protocol.best_by("parameters", limit),
        "most_macs": protocol.best_by("macs", limit),
    }
    return summary(chosen, protocol, search_s / 60)


def summary(chosen: Mapping[str, Tuned], protocol: Protocol, minutes: float) -> dict[str, Any]:
    """Trains the chosen networks for the comparison, and returns all figures."""
    right = protocol.finals(chosen)
    costs = {name: cost(one.network) for name, one in chosen.items()}
    batch = torch.zeros(2, 28, 28, 1, dtype=torch.uint8)
    ours, theirs = latencies_ms([build(chosen[name].network) for name in ("searched", "baseline")], {"image": batch})
    result: dict[str, Any] = {
        "params_reduction_percent": 100 * (1 - costs["searched"].parameters / costs["baseline"].parameters),
        "minutes": minutes,
        "latency_ratio": ours / theirs,
    }
    for name in chosen:
        if name == "searched":
            continue
        points, interval = gain(right["searched"][: len(right[name])], right[name])
        key = "accuracy_gain_points" if name == "baseline" else f"vs_{name}_points"
        result |= {key: points, f"{key}_interval": interval}
    result["ci_low"] = result["accuracy_gain_points_interval"][0]
    result["each"] = {
        name: {
            "network": one.network.to_json(),
            "recipe": vars(one.recipe),
            "parameters": costs[name].parameters,
            "macs": costs[name].macs,
            "validation_accuracy": one.accuracy,
            "test_accuracy": float(right[name].mean()),
            "test_accuracy_by_seed": [float(value) for value in right[name].mean(1)],
        }
        for name, one in chosen.items()
    }
    return result


def report(line: str) -> None:
    """Prints the result of a training."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Measures missing parts, prints the results, and certifies them if this was a full run on a clean working tree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nas", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object (always the last line)")
    parser.add_argument("--quick", action="store_true", help="few images and short trainings; certify nothing")
    parser.add_argument("--data", choices=list(PLANS), help="measure only this data set; certify nothing")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends at once, as with SIGTERM: every result has been stored
    torch.set_num_threads(1)  # threads of torch that wait for a busy core make it many times slower
    where = provenance()
    names = [arguments.data] if arguments.data else list(PLANS)
    plans = {"mnist": QUICK} if arguments.quick else {name: PLANS[name] for name in names}
    files, found = [], {}
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_cores(), spawning, initializer=die_with, initargs=(os.getpid(),)) as pool:
        for name, plan in plans.items():
            file = progress_file("nas", where, f"quick-{name}" if arguments.quick else name)
            protocol = Protocol(plan, SPACE, Records(file), pool, num_cores(), report)
            found[name] = measure(plan, protocol)
            files.append(file)
    main_name, *others = found
    result = {
        "n": next(iter(plans.values())).num_seeds,
        "quick": arguments.quick,
        "data": main_name,
        **found[main_name],
        **{f"{name}_{key}": value for name in others for key, value in found[name].items()},
        "recipes": len(RECIPES),
        **where,
    }
    print_figures(result)
    full = not arguments.quick and not arguments.data
    certify("nas", result, full=full)
    if full and not result["changed"]:
        write_figure(ROOT / "docs" / "figures" / "nas.png", found)
    for file in files if not arguments.data else ():  # the run of all data sets uses these results
        file.unlink()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
