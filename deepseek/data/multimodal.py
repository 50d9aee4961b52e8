"""Reads images, questions, answers and audio from plain files, without a mesh.

Questions and answers are in a UTF-8 text file with tab-separated columns. The images and recordings are separate files.
The constructor reads the text file and checks that all images and recordings exist. Images and recordings are decoded
only on access, so their total size may far exceed memory. Questions and answers are normalized to NFC, and surrounding
whitespace is stripped. To store, version and share such a data set, upload it to a mesh.
"""

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.errors import InvalidArgument
from common.text_files import NotUtf8, read_text
from deepseek.data import media
from deepseek.data.folder import Folder
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample, check_key

COLUMNS = ("image", "question", "answer", "audio")
_NUM_REQUIRED = 3


@dataclass(frozen=True)
class _Row:
    image: Path
    question: str
    answer: int
    audio: Path | None


class MultiModalDataset:
    """A map-style data set of questions about images. Thread-safe.

    Each item is a dict with these keys: `image` (uint8 [H, W, 3], or the output of `transform`, whose input is a Pillow
    RGB image), `question` (text), `answer` (index into `answers`) and, if the text file has an audio column, `audio`
    (float32 [frames, channels] in [-1, 1]) and `audio_rate` (sampling rate in Hz).

    Args:
        image_dir: Folder of the images. Names of images in the text file are relative to this folder, and may be in
            composed or decomposed Unicode form.
        text_file: UTF-8 text file. Each line has the tab-separated columns image, question, answer and, optionally,
            audio. If the first line consists of these column names, it is a header, which may list the columns in
            another order. Empty lines, and extra empty columns at the end of a line, are skipped.
        transform: Transform to apply to each image, e.g. `Compose([Resize(224), ToTensor()])`.
        audio_dir: Folder of the recordings; by default `image_dir`.
        answers: Possible answers (classes) in order; by default, all answers in the text file, sorted. For a test set,
            pass the classes of the training data.

    Attributes:
        answers: Possible answers (classes) in order.

    Raises:
        FileNotFoundError: A folder or the text file does not exist.
        InvalidArgument: BAD_TEXT_FILE, BAD_FILE_NAME, FILE_NOT_FOUND or UNKNOWN_LABEL; the message begins with the path
            of the text file, followed by the line number if a particular line is wrong. BAD_VALUE if `answers` lists an
            answer twice.
    """

    def __init__(
        self,
        image_dir: str | Path,
        text_file: str | Path,
        transform: Callable[[Any], Any] | None = None,
        audio_dir: str | Path | None = None,
        answers: tuple[str, ...] | list[str] | None = None,
    ) -> None:
        self._image_dir = Folder(image_dir)
        self._audio_dir = Folder(audio_dir) if audio_dir is not None else self._image_dir
        self._text_file = Path(text_file)
        self._transform = transform
        lines = self._read_lines()
        found = sorted({cells["answer"] for _, cells in lines})
        self.answers = tuple(found if answers is None else answers)
        numbers = {_plain(answer): number for number, answer in enumerate(self.answers)}
        if len(numbers) < len(self.answers):
            listed = ", ".join(self.answers[:50])
            message = f"the answers contain a duplicate, perhaps in two Unicode forms; list each answer once: {listed}"
            raise InvalidArgument("BAD_VALUE", message, field="answers")
        self._rows = [self._row(line, cells, numbers) for line, cells in lines]

    def __len__(self) -> int:
        """Returns the number of questions."""
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Decodes and returns one item.

        Raises:
            IndexError: The index is out of range.
            InvalidArgument: DAMAGED_IMAGE or DAMAGED_AUDIO; the message names the file.
        """
        row = self._rows[index]
        image = media.decode_image(row.image.read_bytes(), name=str(row.image))
        pixels = self._transform(image) if self._transform else _array(image)
        item = {"image": pixels, "question": row.question, "answer": row.answer}
        if row.audio is not None:
            item["audio"], item["audio_rate"] = media.decode_audio(row.audio.read_bytes(), name=str(row.audio))
        return item

    @property
    def fields(self) -> tuple[Field, ...]:
        """Fields of the samples that `samples` yields: image, question, answer and, if present, audio."""
        columns = [
            Field("image", "image", repeated=False, labels=()),
            Field("question", "text", repeated=True, labels=()),
            Field("answer", "label", repeated=True, labels=self.answers),
        ]
        if self._rows[0].audio is not None:
            columns.append(Field("audio", "audio", repeated=True, labels=()))
        return tuple(columns)

    def samples(self, split: str = "train") -> Iterator[Sample]:
        """Returns samples for an upload to a mesh: one per image, with the undecoded image and all questions about it.

        Args:
            split: Split to which the samples belong.

        Raises:
            InvalidArgument: BAD_SPLIT if `split` is not a valid name; BAD_KEY if the file name of an image cannot be
                used in the key of a sample. The call itself raises these errors, before the iteration starts.
        """
        by_key: dict[str, list[_Row]] = {}
        for row in self._rows:
            key = f"{split}/{row.image.relative_to(self._image_dir.path).as_posix()}"
            by_key.setdefault(key, []).append(row)
        for key in by_key:
            check_key(key, split)
        return self._samples(split, by_key)

    def _samples(self, split: str, by_key: Mapping[str, Sequence[_Row]]) -> Iterator[Sample]:
        for key, rows in by_key.items():
            values: dict[str, Any] = {
                "image": rows[0].image.read_bytes(),
                "question": [row.question for row in rows],
                "answer": [self.answers[row.answer] for row in rows],
            }
            if rows[0].audio is not None:
                values["audio"] = [row.audio.read_bytes() for row in rows if row.audio]
            yield Sample(key=key, split=split, values=values)

    @property
    def num_images(self) -> int:
        """Number of samples that `samples` yields."""
        return len({row.image for row in self._rows})

    def _read_lines(self) -> list[tuple[int, dict[str, str]]]:
        try:
            text = read_text(self._text_file)
        except NotUtf8 as error:
            raise self._error("BAD_TEXT_FILE", error.line, str(error)) from error
        columns: tuple[str, ...] = ()
        rows = []
        # str.splitlines is not used: it also splits at characters that may occur within a question.
        for line, content in enumerate(text.split("\n"), 1):
            if not content.strip():
                continue
            cells = content.split("\t")
            # Spreadsheets write tabs at the end of a line for columns whose cells were cleared.
            while len(cells) > max(len(columns), _NUM_REQUIRED) and not cells[-1].strip():
                cells.pop()
            if not columns:
                names = tuple(cell.strip().lower() for cell in cells)
                columns = names if set(COLUMNS[:_NUM_REQUIRED]) <= set(names) else COLUMNS[: len(cells)]
                if len(columns) < _NUM_REQUIRED or sorted(columns) != sorted(set(columns) & set(COLUMNS)):
                    message = f"has the columns {content[:80]!r}; use image, question, answer and optionally audio"
                    raise self._error("BAD_TEXT_FILE", line, message)
                if columns == names:
                    continue
            if len(cells) != len(columns):
                message = f"has {len(cells)} tab-separated columns; {len(columns)} are required: {', '.join(columns)}"
                raise self._error("BAD_TEXT_FILE", line, message)
            row = dict(zip(columns, cells, strict=True))
            rows.append((line, {**row, "question": _plain(row["question"]), "answer": _plain(row["answer"])}))
        if not rows:
            raise InvalidArgument("BAD_TEXT_FILE", f"{self._text_file} contains no questions", field="text_file")
        return rows

    def _row(self, line: int, cells: dict[str, str], numbers: dict[str, int]) -> _Row:
        for name, cell in cells.items():
            if not cell.strip():
                raise self._error("BAD_TEXT_FILE", line, f"has no {name}")
        answer = cells["answer"]
        if answer not in numbers:
            known = ", ".join(self.answers[:50])
            raise self._error("UNKNOWN_LABEL", line, f"has the answer {answer[:80]!r}, which is not one of: {known}")
        audio = self._file(line, self._audio_dir, cells["audio"]) if "audio" in cells else None
        return _Row(self._file(line, self._image_dir, cells["image"]), cells["question"], numbers[answer], audio)

    def _file(self, line: int, folder: Folder, name: str) -> Path:
        try:
            return folder.file(name)
        except InvalidArgument as error:
            raise self._error(error.reason, line, error.message) from error

    def _error(self, reason: str, line: int, message: str) -> InvalidArgument:
        return InvalidArgument(reason, f"{self._text_file}:{line} {message}", field="text_file")


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())


def _array(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.array(image, np.uint8)
