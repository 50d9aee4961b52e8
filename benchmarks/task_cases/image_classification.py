"""Handwritten digits: scikit-learn's `load_digits`, 1,797 grey images of 8 x 8 pixels, as class folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.task_cases.task import (
    SCIKIT_LEARN,
    Score,
    Task,
    divided,
    install,
    read_table,
    right_answers,
    served_labels,
    write_table,
)

GREATEST = 16
"""Greatest value of a pixel in `load_digits`."""


def write(folder: Path) -> None:
    """Writes digits/SPLIT/CLASS/NUMBER.png, and test.csv, which lists the images of the test split."""
    install(*SCIKIT_LEARN)
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * 255 / GREATEST).astype(np.uint8)
    for split, numbers in divided(range(len(images)), digits.target).items():
        for number in numbers:
            path = folder / "digits" / split / str(digits.target[number]) / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[number]).save(path)
    test = sorted((folder / "digits" / "test").glob("*/*.png"))
    rows = [{"image": path.relative_to(folder).as_posix(), "label": path.parent.name} for path in test]
    write_table(folder / "test.csv", rows)


def score(folder: Path, outputs: Sequence[Any]) -> Score:
    """Scores the served predictions of the test split."""
    return right_answers([row["label"] for row in read_table(folder / "test.csv")], served_labels(outputs[-1]))


def baseline_score(folder: Path) -> Score:
    """Trains and scores the baseline. It needs no validation split, so it trains on this split, too."""
    install(*SCIKIT_LEARN)
    import numpy as np
    from PIL import Image
    from sklearn.svm import SVC

    def read(*splits: str) -> tuple[Any, list[str]]:
        paths = [path for split in splits for path in sorted((folder / "digits" / split).glob("*/*.png"))]
        pixels = [np.asarray(Image.open(path), float).ravel() * GREATEST / 255 for path in paths]
        return np.stack(pixels), [path.parent.name for path in paths]

    pixels, labels = read("test")
    return right_answers(labels, SVC(gamma=0.001).fit(*read("train", "validation")).predict(pixels).tolist())


TASK = Task(
    baseline="scikit-learn SVC(gamma=0.001)",
    commands=(
        ("dataset", "import", "digits", "digits"),
        ("train", "--task", "image-classification", "--dataset", "digits", "--model", "digits"),
        ("model", "load", "digits"),
        ("predict", "digits", "--file", "test.csv"),
    ),
    write=write,
    score=score,
    baseline_score=baseline_score,
)
