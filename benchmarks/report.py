"""Provenance, progress and certification of benchmark results."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from deepseek.processor import instruction_set

Record = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]


def provenance() -> dict[str, Any]:
    """Returns the commit, whether the working tree has changed since, and the processor with its instruction set.

    New results and pictures are no changes, so that a benchmark that certifies in parts can be resumed.
    """
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", ".", ":!docs/results", ":!docs/figures"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    model = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    )
    return {
        "commit": commit.strip(),
        "changed": bool(changed.strip()),
        "cpu": f"{os.cpu_count()} x {model}",
        "instruction_set": instruction_set(),
    }


def progress_file(area: str, provenance: Mapping[str, Any], run: str) -> Path:
    """Returns the path of a benchmark's progress file, which has one line per completed case.

    The file name contains the commit and the kind of run."""
    path = ROOT / f".{area}" / f"{provenance['commit'][:12]}{'-changed' * provenance['changed']}-{run}.jsonl"
    path.parent.mkdir(exist_ok=True)
    return path


def measure_all(
    pool: futures.Executor,
    measure: Callable[..., Record],
    cases: Sequence[tuple[Any, ...]],
    *,
    case_of: Callable[[Record], tuple[Any, ...]],
    cache: Path | None,
) -> Iterator[Record]:
    """Yields the record of every case, and shows a progress bar. Cases that the cache contains are not measured again.

    Args:
        pool: Pool in which the cases are measured.
        measure: Function that measures a case; its arguments are the elements of the case.
        case_of: Function that maps a record to its case.
        cache: File with one record per line, to which new records are appended; None to measure all cases.
    """
    known = {case_of(record): record for record in (read_progress(cache) if cache else ())}
    yield from (known[case] for case in cases if case in known)
    under_way = [pool.submit(measure, *case) for case in cases if case not in known]
    for done in track(futures.as_completed(under_way), "cases", total=len(under_way), transient=True):
        record = done.result()
        if cache:
            with cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        yield record


def read_progress(path: Path) -> list[Record]:
    """Returns the records of completed cases, and removes an incomplete last line from the file."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith("\n"):
        path.write_text("".join(lines[:-1]), encoding="utf-8")
        lines.pop()
    return [json.loads(line) for line in lines]


class Rounds:
    """The measurements of all rounds, stored in a file so that an interrupted benchmark can resume.

    Args:
        file: File with one record per line.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.records = read_progress(file)

    def measure(self, part: str, number: int, work: Callable[[], Mapping[str, Any]]) -> Record:
        """Returns the record of a part in a round. If none exists, measures the part and stores its record."""
        for record in self.records:
            if (record["part"], record["round"]) == (part, number):
                return record
        record = {"part": part, "round": number, **work()}
        self.records.append(record)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), file=sys.stderr, flush=True)
        return record


def print_figures(result: Mapping[str, Any], *, spread: str = "95 % interval") -> None:
    """Prints the figures of a result that are not counts to standard error, one per line.

    Args:
        result: The result; the interval of the figure `x` is `x_interval`.
        spread: Heading of the column that holds the intervals.
    """
    table = Table("figure", "value", spread, box=None, header_style="bold")
    for name, value in result.items():
        if isinstance(value, float):
            interval = result.get(f"{name}_interval")
            table.add_row(name, f"{value:,.3f}", "{:,.3f} to {:,.3f}".format(*interval) if interval else "")
    Console(stderr=True).print(table)


def certify(area: str, result: Mapping[str, Any], *, full: bool) -> None:
    """Writes a result to docs/results/<area>.json if it is from a full run on a clean working tree."""
    if not full or result["changed"]:
        return
    path = ROOT / "docs" / "results" / f"{area}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"certified in {path}", file=sys.stderr)
