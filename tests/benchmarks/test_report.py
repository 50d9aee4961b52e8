"""An interrupted run continues where it stopped, and its figures are printed."""

import json
from concurrent import futures
from pathlib import Path

import pytest

from benchmarks.report import Record, Rounds, measure_all, print_figures, read_progress

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


def test_an_incomplete_line_is_measured_again(tmp_path: Path) -> None:
    cache = tmp_path / "progress.jsonl"
    run(cache)
    whole = cache.read_text(encoding="utf-8")
    cache.write_text(whole[:-10], encoding="utf-8")
    assert len(read_progress(cache)) == 2
    assert run(cache) == [measure(*case) for case in CASES]
    assert cache.read_text(encoding="utf-8") == whole


def test_a_round_in_the_file_is_not_measured_again(tmp_path: Path) -> None:
    file, calls = tmp_path / "rounds.jsonl", []

    def work() -> dict[str, float]:
        calls.append(1)
        return {"ratio": 0.5}

    first = Rounds(file).measure("runs", 0, work)
    assert Rounds(file).measure("runs", 0, work) == first == {"part": "runs", "round": 0, "ratio": 0.5}
    assert len(calls) == 1
    Rounds(file).measure("runs", 1, work)
    assert len(calls) == 2


def test_figures_are_printed_with_their_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    print_figures({"n": 3, "ratio": 1234.5, "ratio_interval": [1, 2], "share": 0.5, "cpu": "x"}, spread="range")
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert lines == [["figure", "value", "range"], ["ratio", "1,234.500", "1.000", "to", "2.000"], ["share", "0.500"]]
