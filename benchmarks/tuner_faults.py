"""Counts acknowledged trials and measurements that are lost, and suggestions that are given twice, after `kill -9`.

Four workers search with a tuner. The tuner or one of the workers is killed at a random moment and started again, 50
times; the moments follow from a seed. Then everything that a worker was told is compared with what is stored.
`--quick` kills less, and certifies nothing. An interrupted run resumes after the last ten kills.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Record, Rounds, certify, print_figures, progress_file, provenance
from tests.services.tuner.kills import run_kills

NUM_TRIALS, QUICK_TRIALS = 50, 4
NUM_PER_ROUND = 10
"""Number of kills of one tuner and its workers, before others are started."""
SEED = 20261130


def kill_round(number: int, num_kills: int) -> Record:
    """Runs a tuner and workers, kills them several times, and returns the changes that were lost."""
    with tempfile.TemporaryDirectory(prefix="tuner-faults-") as folder:
        return run_kills(Path(folder), num_kills, SEED + number)


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Returns the totals of all rounds."""
    names = ("tuner_kills", "worker_kills", "trials_given", "measurements", "ended", "lost", "given_twice")
    totals = {name: sum(record.get(name, 0) for record in records) for name in names}
    return {"n": sum(record["kills"] for record in records), **totals}


def main() -> None:
    """Runs the missing rounds, prints the result, and certifies it if this was a full run on a clean tree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuner_faults", description=__doc__)
    parser.add_argument("--trials", type=int, default=NUM_TRIALS, help="number of kills; 50 are certified")
    parser.add_argument("--json", action="store_true", help="print one JSON object (always the last line)")
    parser.add_argument("--quick", action="store_true", help="few kills; certify nothing")
    arguments = parser.parse_args()
    num_trials = QUICK_TRIALS if arguments.quick else arguments.trials
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that processes are stopped and folders removed
    where = provenance()
    file = progress_file("tuner_faults", where, "quick" if arguments.quick else f"{num_trials}-trials")
    if arguments.quick:
        file.unlink(missing_ok=True)
    rounds = Rounds(file)
    for number, start in enumerate(range(0, num_trials, NUM_PER_ROUND)):
        num_kills = min(NUM_PER_ROUND, num_trials - start)
        rounds.measure("kills", number, lambda: kill_round(number, num_kills))  # noqa: B023
    result = {"quick": arguments.quick, "seed": SEED, **summary(rounds.records), **where}
    print_figures(result)
    file.unlink(missing_ok=True)
    is_good = not result["lost"] and not result["given_twice"]
    certify("tuner_faults", result, full=num_trials >= NUM_TRIALS and is_good)
    print(json.dumps(result))
    if not is_good:
        sys.exit(1)


if __name__ == "__main__":
    main()
