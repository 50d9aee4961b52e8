"""Which folders are splits, and which are classes."""

from pathlib import Path

import pytest

from tests.deepseek.interchange.imports import imported
from tests.harness.images import image_file


@pytest.mark.parametrize(
    ("folders", "found"),
    [
        (("train", "car", "bus"), {("train", "train"), ("train", "car"), ("train", "bus")}),
        (("train-station", "train_set", "bus"), {("train", "train-station"), ("train", "train_set"), ("train", "bus")}),
        (("test", "Eval"), {("test", ""), ("eval", "")}),
        (("train", "val", "notes"), {("train", ""), ("val", "")}),
        (("train/a", "train/b", "notes"), {("train", "a"), ("train", "b")}),
        (("validation/a", "training/b"), {("validation", "a"), ("train", "b")}),
    ],
)
def test_a_folder_called_like_a_split_may_be_a_class(
    tmp_path: Path, folders: tuple[str, ...], found: set[tuple[str, str]]
) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.png").write_bytes(image_file())
    _, samples, _ = imported(tmp_path)
    assert {(one.split, one.values.get("label", "")) for one in samples} == found
