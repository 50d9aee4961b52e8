"""Pictures of easy-VQA as class folders, divided among nodes, and a run that learns their colours."""

import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import easy_vqa

from deepseek.data.manifest import Field
from deepseek.data.sample import Sample

LABELS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
FIELDS = (Field("image", "image"), Field("label", "label", labels=LABELS))

CNN: dict[str, Any] = {
    "model": {"name": "cnn", "params": {"width": 4, "norm": "group", "dropout": 0.1}},
    "loss": {"name": "cross_entropy"},
    "optimizer": {"name": "adamw", "params": {"lr": 0.01}},
    "metrics": [{"name": "accuracy"}],
    "inputs": [{"field": "image", "encoder": {"name": "image", "params": {"size": 16}}}],
    "target": {"field": "label"},
    "epochs": 1,
    "batch_size": 16,
}
"""What differs from the spec of `tests.deepseek.trainjob.jobs.complete_spec`."""


@cache
def pictures() -> tuple[tuple[Path, str], ...]:
    """Returns the file and the colour of each picture whose colour a question asks for, by number."""
    questions, answers, images = easy_vqa.get_train_questions()
    paths = easy_vqa.get_train_image_paths()
    asked = zip(questions, answers, images, strict=True)
    colours = {image: answer for question, answer, image in asked if answer in LABELS and question.startswith("what")}
    return tuple((Path(paths[image]), colour) for image, colour in sorted(colours.items()))


def write_folder(folder: Path, numbers: Iterable[int]) -> Path:
    """Copies pictures to `folder`/COLOUR/NAME.png; returns the folder."""
    for number in numbers:
        path, colour = pictures()[number]
        (folder / colour).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / colour / path.name)
    return folder


def samples(num_samples: int, split: str, seed: int) -> list[Sample]:
    """Returns pictures from number 1000 on as samples; other seeds give other pictures."""
    chosen = pictures()[1000 + 500 * seed :][:num_samples]
    return [
        Sample(f"{split}-{path.name}", split, {"image": path.read_bytes(), "label": colour}) for path, colour in chosen
    ]
