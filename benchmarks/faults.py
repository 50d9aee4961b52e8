"""Counts lost, torn and duplicate writes when parts of a mesh are killed or disconnected, or when the disk is full.

In each trial, one fault is injected into a service while clients write. Then the fault is repaired, the same service is
killed once more, and all acknowledged writes are checked. No lost, torn or duplicate write is acceptable, so there is
no comparison with other systems. A seed determines all trials (`tests.faults.trials`). Each result is written to a
file, from which an interrupted benchmark resumes. `--quick` shortens long faults and certifies nothing.
"""

import argparse
import json
import math
import random
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.report import certify, progress_file, provenance, read_progress
from tests.faults.findings import Findings
from tests.faults.mesh import broken_mesh
from tests.faults.trial_run import run_trial
from tests.faults.trials import Trial, draw
from tests.faults.workload import workloads_on

NUM_TRIALS = 100
SEED = 20261125
WRONG = ("lost_writes", "torn_reads", "double_writers", "unfinished_jobs")
NUM_RESAMPLES = 2000


def run_trials(trials: Sequence[Trial]) -> Iterator[tuple[Trial, Findings]]:
    """Runs trials, on one mesh per backend, and yields each trial with its findings."""
    by_backend = attrgetter("backend")
    for backend, of_backend in groupby(sorted(trials, key=by_backend), key=by_backend):
        with tempfile.TemporaryDirectory(prefix="faults-") as folder, broken_mesh(backend, Path(folder)) as mesh:
            workloads = workloads_on(mesh)
            for trial in of_backend:
                yield trial, run_trial(mesh, trial, workloads)


def summary(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Returns summary statistics of all trials, with a 95 % interval for the 95th percentile of the restart times."""
    restarts_s = sorted(second for row in rows for second in row["restarts_s"])
    draws = random.Random(seed)
    resampled = sorted(
        percentile(sorted(draws.choices(restarts_s, k=len(restarts_s))), 0.95) for _ in range(NUM_RESAMPLES)
    )
    num_wrong = sum(any(row[name] for name in WRONG) for row in rows)
    return {
        "n": len(rows),
        "trials": len(rows),
        "seed": seed,
        **{name: sum(len(row[name]) for row in rows) for name in WRONG},
        "wrong_trials": num_wrong,
        # The exact (Clopper-Pearson) bound if no trial is wrong, which is the only acceptable result.
        "wrong_trials_share_below": None if num_wrong else 1 - 0.05 ** (1 / len(rows)),
        "acknowledged_writes": sum(row["num_acknowledged"] for row in rows),
        "compared_reads": sum(row["num_reads"] for row in rows),
        "restarts": len(restarts_s),
        "p95_restart_s": percentile(restarts_s, 0.95),
        "p95_restart_s_interval": [percentile(resampled, 0.025), percentile(resampled, 0.975)],
        "max_restart_s": restarts_s[-1],
    }


def percentile(ascending: Sequence[float], fraction: float) -> float:
    """Returns the smallest value v such that at least this fraction of the values are at most v."""
    return ascending[math.ceil(fraction * len(ascending)) - 1]


def print_table(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Prints a table with one line per backend and kind of fault, and then one line per wrong result."""
    table = Table("backend", "fault", "trials", "writes", *WRONG, "slowest restart", box=None, header_style="bold")
    key = itemgetter("backend", "fault")
    for (backend, fault), group in groupby(sorted(rows, key=key), key=key):
        of = list(group)
        counts = [sum(len(row[name]) for row in of) for name in WRONG]
        slowest = max(second for row in of for second in row["restarts_s"])
        writes = sum(row["num_acknowledged"] for row in of)
        table.add_row(backend, fault, *map(str, (len(of), writes, *counts)), f"{slowest:.2f} s")
    console.print(table)
    for row in rows:
        for name in WRONG:
            for what in row[name]:
                console.print(
                    f"trial {row['number']} ({row['fault']} of {row['service']}): {name}: {what}", style="red"
                )


def main() -> None:
    """Runs the remaining trials, prints all results, and certifies them.

    Nothing is certified unless this was a full run on a clean working tree.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument(
        "--trials", type=int, default=NUM_TRIALS, help="number of trials; a run of at least 100 is certified"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the trials")
    parser.add_argument("--quick", action="store_true", help="shorten long faults; certify nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object (always the last line)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the cleanup runs
    where = provenance()
    kind = "quick" if arguments.quick else "full"
    file = progress_file("faults", where, f"{kind}-{arguments.seed}")
    rows = [row for row in read_progress(file) if row["number"] < arguments.trials]
    done = {row["number"] for row in rows}
    todo = [draw(arguments.seed, i, long=not arguments.quick) for i in range(arguments.trials) if i not in done]
    console = Console(stderr=True)
    with progress_bar(console) as progress, file.open("a", encoding="utf-8") as results:
        task = progress.add_task("trials", total=arguments.trials, completed=len(rows), note="starting a mesh")
        for trial, findings in run_trials(todo):
            rows.append({**vars(trial), **vars(findings)})
            results.write(json.dumps(rows[-1]) + "\n")
            results.flush()
            progress.update(task, advance=1, note=f"{trial.fault} of {trial.service}")
    print_table(rows, console)
    result = {**summary(rows, arguments.seed), **where}
    file.unlink()
    certify("faults", result, full=not arguments.quick and arguments.trials >= NUM_TRIALS)
    print(json.dumps(result))
    sys.exit(1 if result["wrong_trials"] else 0)


def progress_bar(console: Console) -> Progress:
    """Returns a progress bar that shows the number of trials, the time elapsed and left, and the latest fault."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console)


if __name__ == "__main__":
    main()
