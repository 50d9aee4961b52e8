"""The benchmark of everyday tasks: what passes, what is measured, and what a failed command reports."""

import contextlib
import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tasks
from benchmarks.report import Record
from benchmarks.task_cases.task import Score, Task, read_table, right_answers, served_labels, write_table

RECORD = {"task": "one", "commands": 4, "minutes": 1.0, "points": 97.0, "baseline_points": 98.0}


def write(folder: Path) -> None:
    write_table(folder / "raw" / "test.csv", [{"x": 'a "quoted", text', "y": "b"}, {"x": "", "y": "c"}])


def score(folder: Path, outputs: Sequence[Any]) -> Score:
    return right_answers([row["y"] for row in read_table(folder / "raw" / "test.csv")], served_labels(outputs[-1]))


TASK = Task("a guess", (("one",), ("two", "three")), write, score, lambda folder: Score(50.0, 2))


def test_a_task_passes_at_a_point_below_the_baseline() -> None:
    assert tasks.judged(RECORD)["passed"]
    for failing in ({"points": 96.9}, {"commands": 5}, {"minutes": 5.0}):
        assert not tasks.judged({**RECORD, **failing})["passed"]


def test_the_summary_counts_the_tasks_that_passed_and_shows_the_worst_figures() -> None:
    worse = {**RECORD, "task": "two", "minutes": 6.0, "points": 90.0}
    result = tasks.summary([tasks.judged(RECORD), tasks.judged(worse)])
    assert (result["tasks"], result["n"], result["commands_max"], result["minutes_max"]) == (1, 2, 4, 6.0)
    assert result["points_below_baseline_max"] == 8.0
    assert list(result["each"]) == ["one", "two"]


def test_the_commands_of_a_task_run_in_order_in_the_folder_of_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ...]] = []

    def deepseek(arguments: Sequence[str], *, home: Path, folder: Path) -> Any:
        seen.append(tuple(arguments))
        assert (folder / "raw" / "test.csv").is_file()
        assert not home.exists()
        return {"predictions": [{"prediction": "b"}, {"prediction": "b"}]}

    @contextlib.contextmanager
    def no_mesh(home: Path) -> Iterator[None]:
        yield

    monkeypatch.setattr(tasks, "deepseek", deepseek)
    monkeypatch.setattr(tasks, "new_mesh", no_mesh)
    record = tasks.measure("guess", TASK)
    assert seen == [("one",), ("two", "three")]
    assert (record["points"], record["baseline_points"], record["n"]) == (50.0, 50.0, 2)
    assert record["passed"]
    repeated = tasks.measure("guess", replace(TASK, repeats=[replace(TASK, baseline_score=lambda _: Score(90.0, 2))]))
    assert (repeated["points"], repeated["baseline_points"], repeated["n"]) == (50.0, 70.0, 4)
    assert seen == [("one",), ("two", "three")] * 3


def test_a_full_run_measures_what_an_interrupted_one_left_and_removes_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress, measured, certified = tmp_path / "full.jsonl", [], []
    done, *left = tasks.TASKS
    progress.write_text(json.dumps(tasks.judged({**RECORD, "task": done, "n": 1})) + "\n", encoding="utf-8")

    def measure(name: str, task: Task) -> Record:
        measured.append(name)
        return tasks.judged({**RECORD, "task": name, "n": 1})

    monkeypatch.setattr(tasks, "measure", measure)
    monkeypatch.setattr(tasks, "progress_file", lambda *_: progress)
    monkeypatch.setattr(tasks, "certify", lambda area, result, *, full: certified.append((area, result["n"], full)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["tasks", "--json"])
    tasks.main()
    assert (measured, certified) == (left, [("tasks", len(tasks.TASKS), True)])
    assert not progress.exists()


def test_writing_the_files_of_a_task_says_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tasks", "--task", "language-model", "--files", str(tmp_path / "new")])
    tasks.main()
    assert capsys.readouterr().out == f"wrote the files of language-model into {tmp_path / 'new'}\n"
    assert (tmp_path / "new" / "reference.txt").exists()


def test_a_failed_command_is_shown_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(tasks.CommandFailed, match=r"(?s)deepseek model nonsense: status 2.*nonsense"):
        tasks.deepseek(["model", "nonsense"], home=tmp_path, folder=tmp_path)


def test_every_task_takes_few_commands_and_ends_with_a_prediction() -> None:
    for task in tasks.TASKS.values():
        assert len(task.commands) <= tasks.MAX_COMMANDS
        assert task.commands[-1][0] == "predict"


def test_a_table_reads_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path)
    assert read_table(tmp_path / "raw" / "test.csv")[0] == {"x": 'a "quoted", text', "y": "b"}
    with (tmp_path / "raw" / "test.csv").open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == ["x", "y"]
