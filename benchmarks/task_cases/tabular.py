"""Cultivars of wine from 13 measurements: scikit-learn's `load_wine`, 178 rows, as one CSV file per split.

The task is done with several divisions into splits.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.task_cases.task import (
    SCIKIT_LEARN,
    SHARES,
    Score,
    Task,
    divided,
    install,
    read_table,
    right_answers,
    served_labels,
    write_table,
)

TARGET = "cultivar"
NUM_DIVISIONS = 5
"""One test split has 63 rows, so a single answer is 1.6 percentage points."""


def write(folder: Path, seed: int = 0) -> None:
    """Writes wine/train.csv, wine/validation.csv and wine/test.csv, stratified by cultivar."""
    install(*SCIKIT_LEARN)
    from sklearn.datasets import load_wine

    wine = load_wine()
    names = [name.replace("/", "_") for name in wine.feature_names]
    rows = [
        {**dict(zip(names, values.tolist(), strict=True)), TARGET: str(wine.target_names[label])}
        for values, label in zip(wine.data, wine.target, strict=True)
    ]
    for split, chosen in divided(rows, [row[TARGET] for row in rows], seed).items():
        write_table(folder / "wine" / f"{split}.csv", chosen)


def score(folder: Path, outputs: Sequence[Any]) -> Score:
    """Scores the served predictions of the test split."""
    expected = [row[TARGET] for row in read_table(folder / "wine" / "test.csv")]
    return right_answers(expected, served_labels(outputs[-1]))


def baseline_score(folder: Path) -> Score:
    """Trains and scores the baseline. It needs no validation split, so it trains on this split, too."""
    install(*SCIKIT_LEARN)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    tables = {split: read_table(folder / "wine" / f"{split}.csv") for split in SHARES}
    known, test = tables["train"] + tables["validation"], tables["test"]

    def numbers(rows: list[dict[str, str]]) -> list[list[float]]:
        return [[float(value) for name, value in row.items() if name != TARGET] for row in rows]

    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(numbers(known), [row[TARGET] for row in known])
    return right_answers([row[TARGET] for row in test], model.predict(numbers(test)).tolist())


TASK = Task(
    baseline="scikit-learn StandardScaler + LogisticRegression",
    commands=(
        ("dataset", "import", "wine", "wine", "--target", TARGET),
        ("train", "--task", "tabular", "--dataset", "wine", "--model", "wine"),
        ("model", "load", "wine"),
        ("predict", "wine", "--file", "wine/test.csv"),
    ),
    write=write,
    score=score,
    baseline_score=baseline_score,
)
TASK = replace(TASK, repeats=[replace(TASK, write=partial(write, seed=seed)) for seed in range(1, NUM_DIVISIONS)])
