import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import InvalidArgument
from deepseek.data import MultiModalDataset, Resize, ToTensor, transforms
from deepseek.data.shards import check_sample
from tests.deepseek.data.samples import sound_file
from tests.harness.images import image_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    for number in range(3):
        (images / f"{number}.png").write_bytes(image_file(number))
    (images / "more" / "größe.jpg").write_bytes(image_file(9, kind="JPEG"))
    (images / "0.wav").write_bytes(sound_file())
    (tmp_path / "secret.png").write_bytes(image_file())
    return tmp_path


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "questions.txt"
    path.write_bytes(text.encode(encoding))
    return path


TEXT = "0.png\twhat shape?\tcircle\n1.png\tist es größer?\tja\nmore/größe.jpg\twhat shape?\tcircle\n"


@pytest.mark.parametrize("header", ["", "image\tquestion\tanswer\n", "Image\tQuestion\tAnswer\n", "\n\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r", " \n", "\t\t\r\n"])
def test_lines_become_items(folder: Path, header: str, encoding: str, newline: str) -> None:
    path = write(folder, (header + TEXT).replace("\n", newline), encoding)
    dataset = MultiModalDataset(image_dir=folder / "images", text_file=path)
    assert len(dataset) == 3
    assert dataset.answers == ("circle", "ja")
    item = dataset[1]
    assert (item["question"], item["answer"]) == ("ist es größer?", 1)
    assert item["image"].shape == (12, 16, 3)
    assert "audio" not in item
    with pytest.raises(IndexError):
        dataset[3]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_two_unicode_forms_of_an_answer_are_one(folder: Path, form: str) -> None:
    lines = "more/größe.jpg\tgrößer?\tthé\n"
    path = write(folder, unicodedata.normalize(form, lines) + unicodedata.normalize("NFC", lines))
    dataset = MultiModalDataset(folder / "images", path)
    assert dataset.answers == ("thé",)
    assert [dataset[i]["question"] for i in range(2)] == ["größer?"] * 2
    (sample,) = dataset.samples()
    assert sample.values["question"] == ["größer?"] * 2
    assert MultiModalDataset(folder / "images", path, answers=["no", "the\u0301"])[0]["answer"] == 1


def test_space_around_an_answer_does_not_make_another_class(folder: Path) -> None:
    path = write(folder, "0.png\tis it?\tyes\n0.png\tis it? \tyes \n0.png\t is it?\t\u00a0yes\t\n")
    dataset = MultiModalDataset(folder / "images", path)
    assert dataset.answers == ("yes",)
    assert {dataset[i]["question"] for i in range(3)} == {"is it?"}


@pytest.mark.parametrize("answers", [["yes", "yes"], ["thé", "the\u0301"]])
def test_equal_answers_are_refused(folder: Path, answers: list[str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        MultiModalDataset(folder / "images", write(folder, "0.png\tis it?\tyes\n"), answers=answers)
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "answers")


def test_a_header_may_give_another_order(folder: Path) -> None:
    path = write(folder, "answer\timage\tquestion\ncircle\t0.png\twhat?\n")
    assert MultiModalDataset(folder / "images", path)[0]["question"] == "what?"


def test_media_are_read_as_viewers_and_players_do(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 12)).save(folder / "images" / "side.jpg", exif=exif)
    sound = bytearray(sound_file())
    sound[40:44] = b"\xff\xff\xff\x7f"  # a pipe: the length was not known
    (folder / "images" / "0.wav").write_bytes(sound)
    item = MultiModalDataset(folder / "images", write(folder, "side.jpg\twhat?\tcircle\t0.wav\n"))[0]
    assert item["image"].shape == (16, 12, 3)
    assert item["audio"].shape == (400, 1)


def test_a_transform_is_applied(folder: Path) -> None:
    transform = transforms.Compose([Resize(24), ToTensor()])
    dataset = MultiModalDataset(str(folder / "images"), str(write(folder, TEXT)), transform=transform)
    assert dataset[0]["image"].shape == (3, 24, 32)
    assert dataset[0]["image"].dtype == torch.float32


def test_audio_is_read(folder: Path) -> None:
    dataset = MultiModalDataset(folder / "images", write(folder, "0.png\twhat?\tcircle\t0.wav\n"))
    assert dataset[0]["audio"].shape == (400, 1)
    assert dataset[0]["audio_rate"] == 8000
    with pytest.raises(InvalidArgument, match=r"questions\.txt:1 names the file '0\.wav', which is not in"):
        MultiModalDataset(folder / "images", folder / "questions.txt", audio_dir=folder)


def test_given_answers_fix_the_classes(folder: Path) -> None:
    path = write(folder, TEXT)
    dataset = MultiModalDataset(folder / "images", path, answers=["ja", "square", "circle"])
    assert [dataset[i]["answer"] for i in range(3)] == [2, 0, 2]
    with pytest.raises(InvalidArgument) as caught:
        MultiModalDataset(folder / "images", path, answers=["circle"])
    assert caught.value.reason == "UNKNOWN_LABEL"
    assert f"{path}:2 " in caught.value.message


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ("0.png\twhat?\tcircle\n0.png\twhat?\n", "BAD_TEXT_FILE", 2),
        ("0.png\twhat?\tcircle\ta\tb\n", "BAD_TEXT_FILE", 1),
        ("0.png what? circle\n", "BAD_TEXT_FILE", 1),
        ("image\tquestion\tanswer\tvideo\n", "BAD_TEXT_FILE", 1),
        ("image\tquestion\tanswer\timage\n", "BAD_TEXT_FILE", 1),
        ("0.png\t\tcircle\n", "BAD_TEXT_FILE", 1),
        ("0.png\twhat?\t \n", "BAD_TEXT_FILE", 1),
        ("\n\n9.png\twhat?\tcircle\n", "FILE_NOT_FOUND", 3),
        ("more\twhat?\tcircle\n", "FILE_NOT_FOUND", 1),
        ("../secret.png\twhat?\tcircle\n", "BAD_FILE_NAME", 1),
        ("more/../../secret.png\twhat?\tcircle\n", "BAD_FILE_NAME", 1),
        ("..\\secret.png\twhat?\tcircle\n", "BAD_FILE_NAME", 1),
        ("/etc/passwd\twhat?\tcircle\n", "BAD_FILE_NAME", 1),
        ("a\0b\twhat?\tcircle\n", "BAD_FILE_NAME", 1),
        ("link.png\twhat?\tcircle\n", "BAD_FILE_NAME", 1),
    ],
)
def test_a_bad_line_is_named(folder: Path, text: str, reason: str, line: int) -> None:
    (folder / "images" / "link.png").symlink_to(folder / "secret.png")
    path = write(folder, text)
    with pytest.raises(InvalidArgument) as caught:
        MultiModalDataset(folder / "images", path)
    assert caught.value.reason == reason
    assert caught.value.message.startswith(f"{path}:{line} ")


def test_text_that_is_not_utf8_is_named(folder: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"questions\.txt:2 is not UTF-8"):
        MultiModalDataset(folder / "images", write(folder, TEXT, "latin-1"))


def test_utf_16_is_named(folder: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"questions\.txt:1 is UTF-16; save it as UTF-8"):
        MultiModalDataset(folder / "images", write(folder, TEXT, "utf-16"))


@pytest.mark.parametrize("text", ["", "\n", "image\tquestion\tanswer\n"])
def test_a_file_without_questions_is_refused(folder: Path, text: str) -> None:
    with pytest.raises(InvalidArgument, match="contains no questions"):
        MultiModalDataset(folder / "images", write(folder, text))


def test_missing_files_are_refused(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        MultiModalDataset(folder / "none", write(folder, TEXT))
    with pytest.raises(FileNotFoundError):
        MultiModalDataset(folder / "images", folder / "none.txt")


def test_a_damaged_file_is_named_when_it_is_read(folder: Path) -> None:
    (folder / "images" / "0.png").write_bytes(image_file()[:-30])
    (folder / "images" / "0.wav").write_bytes(sound_file()[:30])
    dataset = MultiModalDataset(folder / "images", write(folder, TEXT))
    with pytest.raises(InvalidArgument, match=r"images/0\.png cannot be decoded"):
        dataset[0]
    assert dataset[1]["answer"] == 1
    dataset = MultiModalDataset(folder / "images", write(folder, "1.png\twhat?\tcircle\t0.wav\n"))
    with pytest.raises(InvalidArgument, match=r"images/0\.wav cannot be decoded"):
        dataset[0]


def test_several_threads_read_the_same_items(folder: Path) -> None:
    dataset = MultiModalDataset(folder / "images", write(folder, TEXT))
    expected = [dataset[i]["image"] for i in range(3)]
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda i: dataset[i % 3]["image"], range(300)))
    assert all(np.array_equal(image, expected[i % 3]) for i, image in enumerate(images))


def test_samples_hold_each_image_once_with_all_of_its_questions(tmp_path: Path) -> None:
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    (tmp_path / "q.txt").write_text("a.png\tis it red?\tyes\nb.png\tis it red?\tno\na.png\tis it blue?\tno\n")
    dataset = MultiModalDataset(tmp_path, tmp_path / "q.txt")
    samples = list(dataset.samples("test"))
    assert dataset.num_images == 2
    assert [sample.key for sample in samples] == ["test/a.png", "test/b.png"]
    assert samples[0].values["question"] == ["is it red?", "is it blue?"]
    assert samples[0].values["answer"] == ["yes", "no"]
    assert samples[0].values["image"] == (tmp_path / "a.png").read_bytes()
    for sample in samples:
        check_sample(sample, dataset.fields)


@pytest.mark.parametrize(
    ("name", "split", "reason"),
    [("a\u202e.png", "train", "BAD_KEY"), ("a\x07.png", "train", "BAD_KEY"), ("a.png", "Train", "BAD_SPLIT")],
)
def test_a_sample_that_cannot_be_uploaded_is_refused_before_the_first(
    tmp_path: Path, name: str, split: str, reason: str
) -> None:
    for one in ("first.png", name):
        Image.new("RGB", (8, 8)).save(tmp_path / one)
    (tmp_path / "q.txt").write_text(f"first.png\tis it?\tyes\n{name}\tis it?\tyes\n")
    dataset = MultiModalDataset(tmp_path, tmp_path / "q.txt")
    assert dataset[1]["answer"] == 0
    with pytest.raises(InvalidArgument) as caught:
        dataset.samples(split)
    assert caught.value.reason == reason
