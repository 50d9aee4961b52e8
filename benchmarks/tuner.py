"""Measures how fast the tuner answers, and how well its searches find.

Latency: suggest, three measurements and complete, over gRPC and durable, against the same calls of Optuna in the same
process, in memory and on its default SQLite storage; `combined` completes and suggests in one call. All systems have
the same space and Optuna's default sampler, and take turns. Quality: how many trials the default algorithm needs to
reach the best of 100 random trials, and which share of their epochs it needs with ASHA. The target is the median over
seeds of its own; random search and the default with and without ASHA are compared seed by seed. The seeds were fixed
beforehand, and nothing was tuned on them. `--quick` measures less, and certifies nothing. An interrupted run resumes.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import optuna

from benchmarks.report import Record, Rounds, certify, print_figures, progress_file, provenance
from benchmarks.search_problems import NUM_TRIALS, best_of_random, effort, num_steps_of, problems
from benchmarks.statistics import median_interval
from deepseek.client.studies import Studies
from protos.tuner.v1 import tuner_pb2
from tests.harness.subprocesses import ServiceSubprocess
from tests.services.tuner.conftest import studies_at

SEEDS = tuple(range(1_000, 1_020))
"""Seeds of the searches that are compared."""
TARGET_SEEDS = tuple(range(2_000, 2_020))
"""Seeds of the random searches that set the target."""
QUICK_SEEDS = 3
NUM_BLOCKS, QUICK_BLOCKS = 10, 2
NUM_STARTUP, NUM_PER_BLOCK = 20, 10
"""Number of trials before the first block, and per block."""
NUM_WORKERS, NUM_PER_WORKER = 16, 5
NUM_STEPS = 3
SPEC = {
    "parameters": [
        {"name": "rate", "float_range": {"low": 1e-5, "high": 0.1, "log": True}},
        {"name": "width", "integer_range": {"low": 8, "high": 512}},
        {"name": "optimizer", "choices": {"values": ["adam", "sgd"]}},
    ],
    "objectives": [{"metric": "loss", "goal": "GOAL_MINIMIZE"}],
}

Trial = Callable[[], None]


def optuna_trial(storage: Any) -> Trial:
    """Returns a function that runs one trial with Optuna on a storage."""
    study = optuna.create_study(storage=storage)

    def run() -> None:
        trial = study.ask()
        rate = trial.suggest_float("rate", 1e-5, 0.1, log=True)
        width = trial.suggest_int("width", 8, 512)
        trial.suggest_categorical("optimizer", ["adam", "sgd"])
        for step in range(1, NUM_STEPS + 1):
            trial.report(loss_of(rate, width) / step, step)
        study.tell(trial, loss_of(rate, width))

    return run


def mesh_trial(studies: Studies, client_id: str) -> Trial:
    """Returns a function that runs one trial with the tuner, with a call for each step."""

    def run() -> None:
        (trial,) = studies.suggest("latency", client_id)
        studies.complete(trial.name, loss=measured(studies, trial))

    return run


def combined_trial(studies: Studies, client_id: str) -> Trial:
    """Returns a function that runs one trial with the tuner, where the end of a trial suggests the next."""
    (trial,) = studies.suggest("combined", client_id)

    def run() -> None:
        nonlocal trial
        following = studies.complete_and_suggest(trial.name, loss=measured(studies, trial))
        assert following is not None, "the study has no end"
        trial = following

    return run


def measured(studies: Studies, trial: tuner_pb2.Trial) -> float:
    """Measures a trial three times, and returns its loss."""
    loss = loss_of(trial.parameters["rate"], trial.parameters["width"])
    for step in range(1, NUM_STEPS + 1):
        studies.measure(trial.name, step, loss=loss / step)
    return loss


def loss_of(rate: float, width: float) -> float:
    """Returns the loss of a point; evaluating it takes no time."""
    return abs(rate - 0.01) + width / 512


@contextmanager
def systems() -> Iterator[tuple[dict[str, Trial], Studies]]:
    """Starts the tuner, and yields a trial of each system, and a client of the tuner."""
    with tempfile.TemporaryDirectory(prefix="tuner-") as folder:
        tuner = ServiceSubprocess("tuner", Path(folder))
        tuner.start()
        try:
            studies = studies_at(tuner.channel())
            for name in ("latency", "combined"):
                studies.create(name, SPEC)
            trials = {
                "mesh": mesh_trial(studies, "worker"),
                "combined": combined_trial(studies, "worker"),
                "memory": optuna_trial(optuna.storages.InMemoryStorage()),
                "sqlite": optuna_trial(f"sqlite:///{folder}/optuna.db"),
            }
            yield trials, studies
        finally:
            tuner.close()


def latency_blocks(num_blocks: int) -> dict[str, Any]:
    """Returns the median duration of a trial in milliseconds, per block, and how many parallel calls failed."""
    with systems() as (trials, studies):
        for trial in trials.values():
            for _ in range(NUM_STARTUP):
                trial()
        blocks: dict[str, list[float]] = {name: [] for name in trials}
        for _ in range(num_blocks):
            for name, trial in trials.items():
                blocks[name].append(1000 * median(duration_s(trial) for _ in range(NUM_PER_BLOCK)))
        return {"blocks": blocks, "parallel_errors": parallel_errors(studies)}


def parallel_errors(studies: Studies) -> int:
    """Returns how many of 16 workers failed that evaluate trials at the same time."""

    def work(index: int) -> None:
        trial = mesh_trial(studies, f"parallel-{index}")
        for _ in range(NUM_PER_WORKER):
            trial()

    with ThreadPoolExecutor(NUM_WORKERS) as pool:
        working = [pool.submit(work, index) for index in range(NUM_WORKERS)]
        return sum(one.exception() is not None for one in working)


def duration_s(work: Trial) -> float:
    """Returns how many seconds a function takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def quality(rounds: Rounds, seeds: Sequence[int], target_seeds: Sequence[int]) -> dict[str, Any]:
    """Returns the figures of all searches. Measures those that no earlier run has stored.

    Args:
        rounds: What has been measured.
        seeds: Seeds of the searches that are compared.
        target_seeds: Seeds of the random searches that set the target.
    """
    result: dict[str, Any] = {}
    for name in problems():
        target = median(
            rounds.measure(f"target {name}", seed, lambda seed=seed: {"best": best_of_random(name, seed)})["best"]  # noqa: B023
            for seed in target_seeds
        )
        searches = {"default": {"algorithm": "tpe"}, "random": {"algorithm": "random"}}
        if name == "tabular":
            searches["asha"] = {"algorithm": "tpe", "pruner": "asha"}
        found = {
            search: [
                rounds.measure(
                    f"{search} {name}",
                    seed,
                    lambda seed=seed: effort(name, seed, target, **settings),  # noqa: B023
                )
                for seed in seeds
            ]
            for search, settings in searches.items()
        }
        result |= figures(name, found)
    names = [f"default_{name}_trials" for name in problems()]
    result["trials_to_random100_best"] = max(result[name] for name in names)
    result["trials_to_random100_best_upper"] = max(result[f"{name}_interval"][1] for name in names)
    return result


def figures(name: str, found: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """Returns the medians of one problem over all seeds, with their intervals.

    Args:
        name: Name of the problem.
        found: What each search needed, in the order of the seeds: `default`, `random` and, for the problem whose trials
            have several steps, `asha`.
    """
    result: dict[str, Any] = {}

    def add(key: str, values: Sequence[float]) -> None:
        result[key], result[f"{key}_interval"] = median_interval(values)

    for search, records in found.items():
        result[f"{search}_{name}_missed"] = sum(not one["reached"] for one in records)
        add(f"{search}_{name}_trials", [float(one["trials"]) for one in records])
    add(f"default_{name}_vs_random", _ratios(found["default"], found["random"], "trials"))
    if "asha" in found:
        # The share of the epochs of 100 complete trials, which are what the target has cost.
        add("asha_epoch_fraction", [one["steps"] / (NUM_TRIALS * num_steps_of(name)) for one in found["asha"]])
        add("asha_epochs_vs_random", _ratios(found["asha"], found["random"], "steps"))
        add("asha_epochs_vs_default", _ratios(found["asha"], found["default"], "steps"))
    return result


def _ratios(ours: Sequence[Record], theirs: Sequence[Record], key: str) -> list[float]:
    return [one[key] / other[key] for one, other in zip(ours, theirs, strict=True)]


def latency(record: Record) -> dict[str, Any]:
    """Returns the medians of the blocks, and the ratios of the mesh to Optuna."""
    blocks = record["blocks"]
    result: dict[str, Any] = {f"{name}_ms": median(values) for name, values in blocks.items()}
    for peer in ("memory", "sqlite"):
        for system, key in (("mesh", f"latency_vs_{peer}"), ("combined", f"latency_combined_vs_{peer}")):
            ratios = [ours / theirs for ours, theirs in zip(blocks[system], blocks[peer], strict=True)]
            result[key], result[f"{key}_interval"] = median_interval(ratios)
    return {**result, "parallel_workers": NUM_WORKERS, "parallel_errors": record["parallel_errors"]}


def main() -> None:
    """Measures missing parts, prints the results, and certifies them if this was a full run on a clean tree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuner", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object (always the last line)")
    parser.add_argument("--quick", action="store_true", help="few seeds and blocks; certify nothing")
    quick = parser.parse_args().quick
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the tuner is stopped
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    where = provenance()
    file = progress_file("tuner", where, "quick" if quick else "full")
    if quick:
        file.unlink(missing_ok=True)
    rounds = Rounds(file)
    seeds, target_seeds = (one[:QUICK_SEEDS] if quick else one for one in (SEEDS, TARGET_SEEDS))
    measured = rounds.measure("latency", 0, lambda: latency_blocks(QUICK_BLOCKS if quick else NUM_BLOCKS))
    result = {
        "n": len(seeds),
        "quick": quick,
        **latency(measured),
        **quality(rounds, seeds, target_seeds),
        "optuna": version("optuna"),
        **where,
    }
    print_figures(result)
    file.unlink()
    certify("tuner", result, full=not quick)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
