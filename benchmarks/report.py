"""What every result says about where it comes from, and where it is kept."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from rich.progress import track

from deepseek.processor import instruction_set

Record = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]


def provenance() -> dict[str, Any]:
    """Commit, whether the tree differs from it, and the processor with its instruction set."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    changed = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True
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
    """Where a run that may be interrupted keeps what it has, a line a case; another commit or run is another file."""
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
    """Yields a record of every case, those in the cache from there, and shows how far it is.

    Args:
        pool: Processes that measure.
        measure: Makes the record of a case from its parts.
        cases: What is to be measured.
        case_of: The case of a record.
        cache: Where records are kept, a line each.
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
    """The cases that are done; a line that a kill has cut off is dropped."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith("\n"):
        path.write_text("".join(lines[:-1]), encoding="utf-8")
        lines.pop()
    return [json.loads(line) for line in lines]


def certify(area: str, result: Mapping[str, Any], *, full: bool) -> None:
    """Writes docs/results/<area>.json, if the run was full and the tree clean."""
    if not full or result["changed"]:
        return
    path = ROOT / "docs" / "results" / f"{area}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"certified in {path}", file=sys.stderr)
