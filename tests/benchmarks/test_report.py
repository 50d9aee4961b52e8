"""A run that was interrupted goes on where it was."""

import json
from concurrent import futures
from pathlib import Path

from benchmarks.report import Record, measure_all, read_progress

CASES = [("a", 1), ("a", 2), ("b", 1)]


def measure(kind: str, number: int) -> Record:
    return {"kind": kind, "number": number, "square": number**2}


def case_of(record: Record) -> tuple[str, int]:
    return record["kind"], record["number"]


def run(cache: Path | None) -> list[Record]:
    with futures.ThreadPoolExecutor(1) as pool:
        return sorted(measure_all(pool, measure, CASES, case_of=case_of, cache=cache), key=case_of)


def test_every_case_is_measured() -> None:
    assert run(None) == [measure(*case) for case in CASES]


def test_cases_in_the_cache_are_not_measured_again(tmp_path: Path) -> None:
    cache = tmp_path / "progress.jsonl"
    known = {"kind": "a", "number": 2, "square": -1}
    other = {"kind": "c", "number": 7, "square": 49}  # of a run that measured more
    cache.write_text(f"{json.dumps(other)}\n{json.dumps(known)}\n", encoding="utf-8")
    assert run(cache) == [measure("a", 1), known, measure("b", 1)]
    assert sorted(read_progress(cache), key=case_of) == [measure("a", 1), known, measure("b", 1), other]


def test_a_line_that_a_kill_has_cut_off_is_measured_again(tmp_path: Path) -> None:
    cache = tmp_path / "progress.jsonl"
    run(cache)
    whole = cache.read_text(encoding="utf-8")
    cache.write_text(whole[:-10], encoding="utf-8")
    assert len(read_progress(cache)) == 2
    assert run(cache) == [measure(*case) for case in CASES]
    assert cache.read_text(encoding="utf-8") == whole
