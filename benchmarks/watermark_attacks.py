"""Measures how image marks survive every attack in 2,000 cases that `watermark_image` does not use.

Also measures false alarms, speed and averaging attacks. `watermark_image` has only 432 cases, because peers are slow.
With so few cases, the lower Clopper-Pearson bound (95 %) on the share of ids read reaches 99.3 % only if every id is
read. With 2,000 cases, it reaches 99.3 % even if 7 ids are not read. The 2,000 cases are drawn in the same way, with
other keys, ids, image parts and parameters. They are not stored: each run draws them again from the same seed, and
compares them with a stored digest.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

from benchmarks.report import Record, certify, measure_all, progress_file, provenance
from benchmarks.statistics import lower_bound
from benchmarks.watermark_cases import Case, as_json, make_cases
from benchmarks.watermark_image import make_pool, summary_of_averaging, summary_of_nulls, summary_of_ours, task_of
from benchmarks.watermark_image_measures import FULL, QUICK, Run, measure_ours, speed
from benchmarks.watermark_image_measures import measure as measure_other
from common.errors import FailedPrecondition

FIRST, NUM_CASES, NUM_QUICK = 10_000, 2000, 12
FIRST_NULL = 5000
SEED = 20_261_126
DIGEST = "e478e9107f8c060730c5e55f9102d9320cf3dfdb05d2538ed142bb0c23491426"


@cache
def read_cases() -> dict[int, Case]:
    """Draws and returns the cases, keyed by number.

    Raises:
        FailedPrecondition: PACKAGE_MISSING if scikit-image is not installed; WRONG_CASES if the cases do not match
            `DIGEST`, because other versions of packages are installed.
    """
    cases = make_cases(range(FIRST, FIRST + NUM_CASES), SEED)
    digest = hashlib.sha256(as_json(cases).encode()).hexdigest()
    if digest != DIGEST:
        message = f"the cases have the wrong digest, {digest}; install the locked versions of numpy and scikit-image"
        raise FailedPrecondition("WRONG_CASES", message)
    return {case.number: case for case in cases}


def measure(kind: str, number: int, run: Run) -> Record:
    """Runs one task; see `watermark_image_measures.measure`."""
    if kind != "ours":
        return measure_other(kind, number, run)
    return {"kind": kind, "number": number} | measure_ours(read_cases()[number])


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Returns summary statistics of the records of all tasks.

    For each attack, they include a lower bound on the share of ids read, and the numbers of the cases in which the id
    was not read.
    """
    ordered = sorted(records, key=lambda record: int(record["number"]))
    kinds = ("ours", "null", "tiles", "many")
    ours, nulls, tiles, many = ([one for one in ordered if one["kind"] == kind] for kind in kinds)
    figures = summary_of_ours(ours)
    missed = {name: [one["number"] for one in ours if not one["exact"][name]] for name in figures["exact"]}
    lower = {name: lower_bound(len(ours) - len(some), len(ours)) for name, some in missed.items()}
    return {
        **figures,
        "exact_lower": lower,
        "exact_lower_least": min(lower.values()),
        "not_told": missed,
        **summary_of_nulls(nulls),
        **summary_of_averaging(tiles, many),
    }


def main() -> None:
    """Runs the benchmark, prints the result, and certifies it if this was a full run on a clean working tree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watermark_attacks", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, as the last line")
    parser.add_argument("--quick", action="store_true", help="run for less than a minute; certify nothing")
    arguments = parser.parse_args()
    try:
        tasks = [("ours", number) for number in read_cases()]
    except FailedPrecondition as error:
        sys.exit(error.message)
    run, start = QUICK if arguments.quick else FULL, provenance()
    tasks = tasks[:NUM_QUICK] if arguments.quick else tasks
    tasks += [("many", 0), *(("tiles", number) for number in range(run.tiles))]
    tasks += [("null", FIRST_NULL + number) for number in range(run.nulls)]
    progress = None if arguments.quick else progress_file("watermark_attacks", start, "full")
    with make_pool(1) as pool:
        times = pool.submit(speed, run).result()
    with make_pool(os.cpu_count()) as pool:
        records = list(measure_all(pool, partial(measure, run=run), tasks, case_of=task_of, cache=progress))
    result = {**summary(records), **times, **start}
    if progress:
        progress.unlink()
    certify("watermark_attacks", result, full=not arguments.quick)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:<30} {value}")


if __name__ == "__main__":
    main()
