"""Compares the start-up times of the mesh, and of a service's `--help`, with those of an earlier commit.

    python -m benchmarks.startup BASELINE_CHECKOUT

The baseline is a checkout of the earlier commit with its own `.venv`. Each round measures both commits; every mesh has
a new home directory and free ports. The first round fills caches and is not counted. Each reported ratio is the median
of the rounds' ratios, with a bootstrap confidence interval.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.report import ROOT, certify, provenance
from benchmarks.statistics import median_interval

NUM_ROUNDS = 10
HELP = ("python", "-m", "services.registry", "--help")
UP = ("deepseek", "up", "--free-ports")
DOWN = ("deepseek", "down")


def run_s(checkout: Path, command: Sequence[str], home: Path) -> float:
    """Runs a command in a checkout's environment, and returns its wall-clock time in seconds."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("DEEPSEEK_", "PYTHON"))}
    program = checkout / ".venv" / "bin" / command[0]
    start = time.perf_counter()
    subprocess.run(
        [program, *command[1:]],
        cwd=checkout,
        env={**variables, "DEEPSEEK_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - start


def help_s(checkout: Path) -> float:
    """Returns how many seconds the registry takes to print its `--help`."""
    return run_s(checkout, HELP, checkout / "unused")


def up_s(checkout: Path) -> float:
    """Returns how many seconds `deepseek up` takes, in a new home directory, to get all services ready."""
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        home = Path(folder) / "home"
        try:
            return run_s(checkout, UP, home)
        finally:
            run_s(checkout, DOWN, home)


def summary(name: str, now_s: Sequence[float], before_s: Sequence[float]) -> dict[str, Any]:
    """Returns the median time of each commit, and the median ratio of the times with its confidence interval.

    >>> summary("up", [1.0, 1.0, 1.0], [2.0, 2.0, 2.0])["up_ratio"]
    0.5
    """
    ratios = [now / before for now, before in zip(now_s, before_s, strict=True)]
    median, interval = median_interval(ratios)
    return {
        f"{name}_ratio": median,
        f"{name}_ratio_interval": interval,
        f"{name}_s": median_interval(now_s)[0],
        f"{name}_before_s": median_interval(before_s)[0],
    }


def measure(baseline: Path, num_rounds: int) -> dict[str, Any]:
    """Measures both commands in both checkouts. The order of the checkouts alternates between rounds."""
    commands = {"up": up_s, "help": help_s}
    seconds: dict[tuple[str, Path], list[float]] = {(name, at): [] for name in commands for at in (ROOT, baseline)}
    for number in track(range(num_rounds + 1), "start-up", transient=True):
        checkouts = (ROOT, baseline) if number % 2 else (baseline, ROOT)
        for name, command in commands.items():
            for checkout in checkouts:
                took_s = command(checkout)
                if number:
                    seconds[name, checkout].append(took_s)
    figures: dict[str, Any] = {"n": num_rounds}
    for name in commands:
        figures |= summary(name, seconds[name, ROOT], seconds[name, baseline])
    return figures


def commit_of(checkout: Path) -> str:
    """Returns the commit of a checkout."""
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Runs the benchmark, prints the result, and certifies it if this was a full run on a clean working tree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("baseline", type=Path, metavar="BASELINE_CHECKOUT", help="checkout of the earlier commit")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, as the last line")
    parser.add_argument("--quick", action="store_true", help="run two rounds; certify nothing")
    arguments = parser.parse_args()
    baseline = arguments.baseline.resolve()
    figures = measure(baseline, 2 if arguments.quick else NUM_ROUNDS)
    result = {**figures, "baseline": commit_of(baseline), **provenance()}
    certify("startup", result, full=not arguments.quick)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:<24} {value}")


if __name__ == "__main__":
    main()
