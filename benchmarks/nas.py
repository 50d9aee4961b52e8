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

SPACE = ConvSpace(
    stems=(16, 24, 32),
    stages=(
        StageChoices(("dense",), (1, 2, 3), (16, 24, 32), (3,), (1,), (True,), poolings=("none", "max")),
        StageChoices(
            depths=(1, 2, 3), widths=(32, 40, 48), expansions=(1, 2), skips=(True,), poolings=("stride", "max")
        ),
        StageChoices(depths=(1, 2), widths=(48, 64, 96), expansions=(1, 2), skips=(True,), poolings=("stride", "max")),
    ),
)
"""The space of the search, narrower than the default: chosen by trainings on validation images."""
SETTINGS = Settings(
    pool=200,
    population=12,
    generations=3,
    offspring=4,
    epochs=2,
    rungs=(Rung(8, 6), Rung(3, 20, 2)),
    objectives=("accuracy", "parameters"),
    max_macs=25_000_000,
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
        settings=replace(SETTINGS, epochs=1, rungs=(Rung(8, 3), Rung(3, 10, 2))),
        tuning_s=90.0,
        baseline_s=420.0,
    ),
}

AREAS = {"fashion": "nas", "mnist": "nas_mnist"}
"""Names of the certified results."""

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
    parser.add_argument("--data", choices=list(PLANS), help="measure only this data set")
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
            head = {"n": plan.num_seeds, "quick": arguments.quick, "data": name}
            found[name] = {**head, **measure(plan, protocol), "recipes": plan.num_recipes, **where}
            certify(AREAS[name], found[name], full=not arguments.quick)
            files.append(file)
    main_name, *others = found
    result = found[main_name] | {f"{name}_{key}": found[name][key] for name in others for key in found[name]}
    print_figures(result)
    if not arguments.quick and not where["changed"]:
        certified = {name: ROOT / "docs" / "results" / f"{area}.json" for name, area in AREAS.items()}
        results = {name: json.loads(path.read_text()) for name, path in certified.items() if path.exists()}
        write_figure(ROOT / "docs" / "figures" / "nas.png", results)
    for file in files:
        file.unlink()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
