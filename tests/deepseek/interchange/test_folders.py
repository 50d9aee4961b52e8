"""Which folders are splits, and which are classes."""

from pathlib import Path

import pytest

from deepseek.interchange.tree import LocalTree
from tests.deepseek.interchange.imports import imported
from tests.deepseek.interchange.sources import sound_file
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


def test_a_stray_file_in_a_folder_of_images_is_kept_aside_with_one_note(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(5):
            (tmp_path / label / f"{i}.png").write_bytes(image_file(i))
    (tmp_path / "cat" / "notes.txt").write_text("to do")
    found, samples, rejected = imported(tmp_path)
    assert (len(samples), [one.name for one in found.fields]) == (10, ["image", "label"])
    assert found.plan.notices == ["files that are not images are kept aside: cat/notes.txt"]
    assert [(one.reason, one.message) for one in rejected] == [
        ("MISSING_FIELD", "cat/notes.txt: image is missing; add a file for it, or remove this sample")
    ]
    assert found.notes() == []
    found, samples, _ = imported(tmp_path, fills={"image": "cat/0.png"})
    assert (len(samples), found.plan.notices) == (11, [])
    for label in ("cat", "dog"):
        for i in range(5):
            (tmp_path / label / f"{i}.txt").write_text(f"no. {i}")
    found, _, _ = imported(tmp_path)
    assert [one.name for one in found.fields] == ["image", "text", "label"]
    assert found.plan.notices == ["files that are not images are kept aside: cat/notes.txt"]
    for path in tmp_path.rglob("?.txt"):
        path.unlink()
    (tmp_path / "cat" / "0.txt").write_text("a caption")
    (tmp_path / "dog" / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "dog" / "b.wav").write_bytes(b"RIFF")
    assert imported(tmp_path)[0].plan.notices == [
        "text has a value in only 2 of 13 rows and is left out; --schema 'text:text' keeps it",
        "files that are not images are kept aside: cat/notes.txt",
        "files that are not images are kept aside: dog/a.wav and 1 more",
    ]


def test_a_picture_among_sounds_is_kept_aside_with_one_note(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.wav").write_bytes(sound_file())
    (tmp_path / "cover.png").write_bytes(image_file())
    found, _, rejected = imported(tmp_path)
    assert found.plan.notices == ["files that are not sounds are kept aside: cover.png"]
    assert [one.message for one in rejected] == [
        "cover.png: audio is missing; add a file for it, or remove this sample"
    ]


@pytest.mark.parametrize("content", [b"", b"abc", b"abcde", b"x" * 100_000])
def test_a_file_that_changes_after_it_was_listed_is_read_to_its_end(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(b"abcd")
    tree = LocalTree(tmp_path)
    blobs = [tree.list().files[0], tree.file("a.txt")]
    (tmp_path / "a.txt").write_bytes(content)
    assert [blob.read() for blob in blobs] == [content, content]
