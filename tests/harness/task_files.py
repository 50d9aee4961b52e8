"""Small files with the layout of those that the pages under docs/tasks and the programs under examples use."""

import csv
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = {"train": 24, "validation": 8, "test": 8}
"""Number of samples of each class in each split."""

_TOPICS = {
    "comp.graphics": ("polygon", "screen", "pixel", "card"),
    "rec.motorcycles": ("bike", "ride", "helmet", "wheel"),
    "sci.space": ("orbit", "moon", "launch", "rocket"),
}


def write_task_files(folder: Path) -> None:
    """Writes the folders digits, wine and newsgroups, and test.csv, which lists the digits of the split test."""
    draw = random.Random(0)
    _write_digits(folder)
    for split, number in SPLITS.items():
        texts = [
            (" ".join(draw.choices((*words, "the", "a", "is"), k=12)), topic)
            for topic, words in _TOPICS.items()
            for _ in range(number)
        ]
        _write_table(folder / "newsgroups" / f"{split}.csv", ("text", "topic"), texts)
        wines = [
            (round(draw.gauss(12 + label, 0.3), 2), round(draw.gauss(2, 0.5), 2), f"class_{label}")
            for label in range(3)
            for _ in range(number)
        ]
        _write_table(folder / "wine" / f"{split}.csv", ("alcohol", "ash", "cultivar"), wines)


def _write_digits(folder: Path) -> None:
    """Draws bars instead of digits: the class is the row of the bar."""
    noise = np.random.default_rng(0)
    tests = []
    for split, number in SPLITS.items():
        for label in range(3):
            (folder / "digits" / split / str(label)).mkdir(parents=True, exist_ok=True)
            for i in range(number):
                pixels = noise.integers(0, 60, (8, 8), dtype=np.uint8)
                pixels[2 * label + 1] = 255
                path = folder / "digits" / split / str(label) / f"{i:04}.png"
                Image.fromarray(pixels).save(path)
                if split == "test":
                    tests.append((path.relative_to(folder).as_posix(), label))
    _write_table(folder / "test.csv", ("image", "label"), tests)


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
