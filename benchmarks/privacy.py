"""Measures privacy accounting against other accountants, and what privacy costs in accuracy on MNIST.

Accounting: for 200 random compositions, our epsilon is compared with the upper bound at a grid that is ten times finer,
with lower bounds of dp-accounting and Opacus, and, without sampling, with the exact value. Accuracy: a linear
model on scattering coefficients is trained with and without privacy for each example. Hyperparameters were chosen
beforehand (`benchmarks.privacy_tuning`) on other images. With the same ones, a run spec with `privacy` trains through
the trainer's own DP-SGD. The five splits test on disjoint fifths of MNIST's test images. An interrupted run resumes.
`--quick` measures less, and certifies nothing.
"""

import argparse
import json
import math
import multiprocessing
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import torch
from scipy import stats

from benchmarks.accounting_cases import Case, compare, random_cases
from benchmarks.privacy_images import features, mnist
from benchmarks.privacy_run import run_spec, train_run
from benchmarks.privacy_training import PlainChoice, PrivateChoice, accuracy, train_plain, train_private
from benchmarks.privacy_tuning import CHOICES, DELTA, EPSILONS
from benchmarks.report import Record, Rounds, certify, measure_all, print_figures, progress_file, provenance
from common.cores import num_cores
from deepseek.privacy.accounting import epsilon
from deepseek.privacy.releases import Release
from tests.deepseek.privacy.gaussian_oracle import exact_epsilon

NUM_CASES, QUICK_CASES = 200, 6
NUM_SPLITS, QUICK_SPLITS = 5, 2
NUM_TRAINING, QUICK_TRAINING = 60_000, 5_000
TEST_SIZE = 2_000
NUM_ROUNDS = 100
RUN_EPSILON = 3.0
RUN_ACCURACY = f"accuracy_eps{RUN_EPSILON:g}_run"
"""Accuracy after the private run of a run spec."""
EXACT = ((1.0, 1, 1e-5), (5.0, 1, 1e-6), (10.0, 100, 1e-6))
"""Noise multiplier, number of releases and delta."""


def exact_gap() -> float:
    """Returns the largest difference between our epsilon and the exact one, for releases without sampling."""
    return max(
        abs(epsilon([Release(noise, count=count)], delta) - exact_epsilon(noise / math.sqrt(count), delta))
        for noise, count, delta in EXACT
    )


def speed_round() -> dict[str, float]:
    """Returns how long a run waits for epsilon after its first round and, as a median, after a further one."""
    seconds = []
    for count in range(1, NUM_ROUNDS + 1):
        start = time.perf_counter()
        epsilon([Release(1.1, 256 / 60_000, count)], 1e-6)
        seconds.append(time.perf_counter() - start)
    return {"first_epsilon_s": seconds[0], "next_epsilon_s": median(seconds[1:])}


@cache
def data(num_train: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns features and labels: first those of MNIST's test images, then of as many training images as asked for."""
    (test, test_labels), (train, train_labels) = mnist("t10k"), mnist("train")
    return (
        torch.cat([features(test), features(train[:num_train])]),
        torch.from_numpy(np.concatenate([test_labels, train_labels[:num_train]])),
    )


def split_round(number: int, num_training: int) -> dict[str, float]:
    """Returns the accuracies of training with and without privacy on one split.

    A fifth of the test images, which no other split tests on, is held out. The training images are drawn from the rest.
    """
    features_ND, labels_N = data(num_training)
    held_out = torch.randperm(10_000, generator=torch.Generator().manual_seed(0))
    held_out = held_out[TEST_SIZE * number : TEST_SIZE * (number + 1)]
    is_rest = torch.ones(len(labels_N), dtype=torch.bool)
    is_rest[held_out] = False
    rest = is_rest.nonzero()[:, 0]
    drawn = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(1 + number))[:num_training]]
    training, test = [(features_ND[part], labels_N[part]) for part in (drawn, held_out)]

    choices = json.loads(CHOICES.read_text(encoding="utf-8"))
    plain = PlainChoice(**choices["plain"]["choice"])
    result = {"nonprivate_accuracy": accuracy(*test, train_plain(*training, plain, seed=number))}
    for budget in EPSILONS:
        choice = PrivateChoice(**choices[f"epsilon_{budget:g}"]["choice"])
        weights = train_private(*training, choice, epsilon=budget, delta=DELTA, public=num_training)
        result[f"accuracy_eps{budget:g}"] = accuracy(*test, weights)
    choice = PrivateChoice(**choices[f"epsilon_{RUN_EPSILON:g}"]["choice"])
    num_features = features_ND.shape[1]
    spec = run_spec(choice, epsilon=RUN_EPSILON, num_features=num_features, public=num_training, seed=number)
    result[RUN_ACCURACY] = accuracy(*test, train_run(*training, spec, delta=DELTA))
    return result


def upper_bound(values: Sequence[float]) -> float:
    """Returns the one-sided 95 % upper bound on the mean of at least two values, by Student's t.

    >>> round(upper_bound([1.0, 2.0, 3.0]), 3)
    3.686
    """
    return fmean(values) + float(stats.t.ppf(0.95, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def ratio(record: Record) -> float:
    """Returns our epsilon relative to the upper bound at the finer grid."""
    ours, fine = record["ours"], record["fine_pessimistic"]
    return float(ours / fine) if fine else math.inf if ours else 1.0


def summary(cases: Sequence[Record], splits: Sequence[Record]) -> dict[str, Any]:
    """Returns the largest ratio, the number of cases below a lower bound, the mean accuracies, and the losses."""
    result: dict[str, Any] = {
        "max_over_fine_pld": max(ratio(case) for case in cases),
        "below_optimistic": sum(case["ours"] < case["optimistic"] for case in cases),
        "below_prv": sum(case["ours"] < case["prv_lower"] for case in cases),
    }
    private = [*(f"accuracy_eps{budget:g}" for budget in EPSILONS), RUN_ACCURACY]
    result |= {name: fmean(split[name] for split in splits) for name in ("nonprivate_accuracy", *private)}
    for name in private:
        losses = [100 * (split["nonprivate_accuracy"] - split[name]) for split in splits]
        loss = name.replace("accuracy", "loss")
        result[f"{loss}_points"] = fmean(losses)
        result[f"{loss}_upper_points"] = upper_bound(losses)
    return result


def main() -> None:
    """Measures missing parts, prints the results, and certifies them if this was a full run on a clean working tree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.privacy", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object (always the last line)")
    parser.add_argument("--quick", action="store_true", help="few cases and one small split; certify nothing")
    quick = parser.parse_args().quick
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    torch.set_num_threads(1)  # threads of torch that wait for a busy core make it many times slower
    where = provenance()
    run = "quick" if quick else "full"
    files = [progress_file("privacy", where, f"{run}-{part}") for part in ("cases", "rounds")]
    if quick:
        for file in files:
            file.unlink(missing_ok=True)
    rounds = Rounds(files[1])
    speed = rounds.measure("speed", 0, speed_round)
    cases = [(case,) for case in random_cases(QUICK_CASES if quick else NUM_CASES)]
    num_splits, num_training = (QUICK_SPLITS, QUICK_TRAINING) if quick else (NUM_SPLITS, NUM_TRAINING)
    with (
        ProcessPoolExecutor(num_cores(), mp_context=multiprocessing.get_context("spawn")) as pool,
        ThreadPoolExecutor(1) as waiting,
    ):
        under_way = waiting.submit(
            lambda: list(measure_all(pool, compare, cases, case_of=case_of_record, cache=files[0]))
        )
        for number in range(num_splits):
            rounds.measure("split", number, lambda number=number: split_round(number, num_training))
        compared = under_way.result()
    result = {
        "n": num_splits,
        "quick": quick,
        "cases": len(compared),
        "delta": DELTA,
        "training_images": num_training,
        "exact_gap": exact_gap(),
        **summary(compared, [record for record in rounds.records if record["part"] == "split"]),
        **{name: value for name, value in speed.items() if name.endswith("_s")},
        **{name: version(name) for name in ("dp-accounting", "opacus", "torch")},
        **where,
    }
    print_figures(result)
    for file in files:
        file.unlink()
    certify("privacy", result, full=not quick)
    print(json.dumps(result))


def case_of_record(record: Record) -> tuple[Case]:
    """Returns the case that a stored record is about."""
    return (Case(*(record[name] for name in ("noise_multiplier", "sampling_rate", "count", "delta"))),)


if __name__ == "__main__":
    main()
