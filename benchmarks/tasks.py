"""Does everyday tasks as a user does: from raw files to right answers of a served model, with `deepseek` commands only.

Each task (see `benchmarks.task_cases`) has its own mesh in a new home directory, on two cores. A task passes if it
takes at most 4 commands and 5 minutes, and if the share of right answers of the served model is at most 1 percentage
point below that of a baseline that was trained on the same files. A task with few samples is repeated with other
divisions into splits, and its scores are averaged. Starting the mesh, which a user does once for all
tasks, is not counted. A full run resumes where it was interrupted. `--quick` does one small task and certifies nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.report import Record, certify, progress_file, provenance, read_progress
from benchmarks.task_cases import (
    audio,
    foreign_onnx,
    image_classification,
    language_model,
    tabular,
    text_classification,
)
from benchmarks.task_cases.task import Score, Task
from deepseek import embedded

TASKS: Mapping[str, Task] = {
    "audio-classification": audio.TASK,
    "foreign-onnx": foreign_onnx.TASK,
    "image-classification": image_classification.TASK,
    "language-model": language_model.TASK,
    "tabular": tabular.TASK,
    "text-classification": text_classification.TASK,
}
QUICK = ("tabular",)
MAX_COMMANDS = 4
MAX_MINUTES = 5.0
MAX_POINTS_BELOW = 1.0
NUM_CORES = 2


class CommandFailed(Exception):
    """A `deepseek` command ended with a status other than 0."""


@contextmanager
def new_mesh(home: Path) -> Iterator[None]:
    """Runs a mesh in a new home directory."""
    mesh = embedded.start_mesh(home, stay=False, free_ports=True)
    try:
        yield
    finally:
        mesh.stop()


def deepseek(arguments: Sequence[str], *, home: Path, folder: Path) -> Any:
    """Runs a `deepseek` command in a folder, and returns the JSON document that it prints.

    Raises:
        CommandFailed: The command failed; the message contains its output.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("DEEPSEEK_")}
    done = subprocess.run(
        [sys.executable, "-m", "deepseek.cli", *arguments, "--json"],
        cwd=folder,
        env={**variables, "DEEPSEEK_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CommandFailed(f"deepseek {' '.join(arguments)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def measure(name: str, task: Task) -> Record:
    """Does a task and its repeats, and compares their mean with that of the baseline."""
    runs = [_run(one) for one in (task, *task.repeats)]
    slowest = max((seconds for seconds, _, _ in runs), key=sum)
    return judged(
        {
            "task": name,
            "commands": len(task.commands),
            "command_s": [round(one, 1) for one in slowest],
            "minutes": sum(slowest) / 60,
            "repeats": len(task.repeats),
            "n": sum(found.num_answers for _, found, _ in runs),
            "points": fmean(found.points for _, found, _ in runs),
            "baseline": task.baseline,
            "baseline_points": fmean(baseline.points for _, _, baseline in runs),
        }
    )


def _run(task: Task) -> tuple[list[float], Score, Score]:
    """Does a task, and returns the seconds of each command, the score, and the score of the baseline."""
    seconds: list[float] = []
    outputs: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="tasks-") as temporary:
        home, folder = Path(temporary) / "home", Path(temporary) / "files"
        folder.mkdir()
        task.write(folder)
        with new_mesh(home):
            for arguments in task.commands:
                start = time.perf_counter()
                outputs.append(deepseek(arguments, home=home, folder=folder))
                seconds.append(time.perf_counter() - start)
        return seconds, task.score(folder, outputs), task.baseline_score(folder)


def write_files(names: Iterable[str], folder: Path) -> None:
    """Writes the raw files of tasks into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        TASKS[name].write(folder)
        print(f"wrote the files of {name} into {folder.resolve()}")


def judged(record: Mapping[str, Any]) -> Record:
    """Adds to a task's record whether the task passed.

    >>> judged({"commands": 4, "minutes": 4.9, "points": 97.0, "baseline_points": 98.5})["passed"]
    False
    """
    below = record["baseline_points"] - record["points"]
    passed = record["commands"] <= MAX_COMMANDS and record["minutes"] < MAX_MINUTES and below <= MAX_POINTS_BELOW
    return {**record, "points_below_baseline": below, "passed": passed}


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Returns the figures of all tasks together, and each task's record."""
    return {
        "tasks": sum(record["passed"] for record in records),
        "n": len(records),
        "commands_max": max(record["commands"] for record in records),
        "minutes_max": max(record["minutes"] for record in records),
        "points_below_baseline_max": max(record["points_below_baseline"] for record in records),
        "each": {record["task"]: {key: value for key, value in record.items() if key != "task"} for record in records},
    }


def print_summary(result: Mapping[str, Any]) -> None:
    """Prints one line per task."""
    table = Table("task", "passed", "commands", "minutes", "n", "right %", "baseline %", "baseline")
    for name, one in result["each"].items():
        numbers = (f"{one['minutes']:.1f}", str(one["n"]), f"{one['points']:.1f}", f"{one['baseline_points']:.1f}")
        table.add_row(name, "yes" if one["passed"] else "no", str(one["commands"]), *numbers, one["baseline"])
    Console().print(table)


def main() -> None:
    """Does the tasks, prints the result, and certifies it if this was a full run on a clean working tree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, as the last line")
    parser.add_argument("--quick", action="store_true", help="do one small task; certify nothing")
    parser.add_argument("--task", action="append", choices=list(TASKS), help="do only this task; certify nothing")
    parser.add_argument("--files", type=Path, metavar="DIR", help="with --task: only write its raw files into DIR")
    arguments = parser.parse_args()
    if arguments.files:
        write_files(arguments.task or TASKS, arguments.files)
        return
    names = tuple(arguments.task or (QUICK if arguments.quick else TASKS))
    is_full = names == tuple(TASKS)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:NUM_CORES])
    origin = provenance()
    progress = progress_file("tasks", origin, "full") if is_full else None
    records = {record["task"]: record for record in (read_progress(progress) if progress else ())}
    for name in names:
        if name not in records:
            print(f"task {name}", file=sys.stderr, flush=True)
            records[name] = measure(name, TASKS[name])
            if progress:
                with progress.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(records[name]) + "\n")
    result = {**summary([records[name] for name in names]), **origin}
    if progress:
        progress.unlink()
    certify("tasks", result, full=is_full)
    if arguments.json:
        print(json.dumps(result))
    else:
        print_summary(result)


if __name__ == "__main__":
    main()
