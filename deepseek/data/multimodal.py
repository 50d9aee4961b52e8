"""Images, questions, answers and sound from plain files, without a mesh.

The questions lie in one UTF-8 text file of tab-separated columns, the images (and sound) in folders. The text file is
read and checked when the data set is made, the files it names are only looked for then, and decoded on access: such a
folder may be far larger than memory. Questions and answers are normalized to NFC and stripped of whitespace. To keep,
version and share a data set, upload it to a mesh instead.
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
    """A map-style data set of questions about images; thread-safe.

    Items are dicts: `image` (what `transform` makes of a Pillow RGB image, without one the image as uint8 [H, W, 3]),
    `question` (text), `answer` (its number in `answers`) and, if the file has an audio column, `audio` (float32
    [frames, channels] in [-1, 1]) with `audio_rate` (Hz).

    Args:
        image_dir: Folder of the images; names in the text file are relative to it, in composed or decomposed form.
        text_file: Tab-separated UTF-8 lines `image, question, answer[, audio]`. A first line with these names is a
            header and may have them in another order. Empty lines and empty columns at the end are skipped.
        transform: Applied to every image, e.g. `Compose([Resize(224), ToTensor()])`.
        audio_dir: Folder of the sound; default `image_dir`.
        answers: The classes in order; default the answers in the file, sorted. Give those of the training data for a
            test set.

    Attributes:
        answers: The classes.

    Raises:
        FileNotFoundError: A folder or the text file does not exist.
        InvalidArgument: BAD_TEXT_FILE, BAD_FILE_NAME, FILE_NOT_FOUND or UNKNOWN_LABEL, and the message begins with
            the text file and the line; BAD_VALUE if an answer is given twice.
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
            message = f"the answers {listed} contain one twice, perhaps composed and decomposed; give it once"
            raise InvalidArgument("BAD_VALUE", message, field="answers")
        self._rows = [self._row(line, cells, numbers) for line, cells in lines]

    def __len__(self) -> int:
        """Number of questions."""
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Decodes one item.

        Raises:
            IndexError: There is no such item.
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
        """The columns of `samples`: an image, its questions, their answers and, if there is sound, its recordings."""
        columns = [
            Field("image", "image", repeated=False, labels=()),
            Field("question", "text", repeated=True, labels=()),
            Field("answer", "label", repeated=True, labels=self.answers),
        ]
        if self._rows[0].audio is not None:
            columns.append(Field("audio", "audio", repeated=True, labels=()))
        return tuple(columns)

    def samples(self, split: str = "train") -> Iterator[Sample]:
        """One sample an image with all of its questions, undecoded: what an upload to a mesh takes.

        Args:
            split: Split that the samples belong to.

        Raises:
            InvalidArgument: BAD_SPLIT, or BAD_KEY for a file whose name cannot be a sample's key; raised before the
                first sample.
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
        """How many samples `samples` gives."""
        return len({row.image for row in self._rows})

    def _read_lines(self) -> list[tuple[int, dict[str, str]]]:
        try:
            text = read_text(self._text_file)
        except NotUtf8 as error:
            raise self._error("BAD_TEXT_FILE", error.line, str(error)) from error
        columns: tuple[str, ...] = ()
        rows = []
        # Not splitlines(), which also splits at characters that a question may hold.
        for line, content in enumerate(text.split("\n"), 1):
            if not content.strip():
                continue
            cells = content.split("\t")
            # Spreadsheets end lines with the tabs of columns that are empty now.
            while len(cells) > max(len(columns), _NUM_REQUIRED) and not cells[-1].strip():
                cells.pop()
            if not columns:
                names = tuple(cell.strip().lower() for cell in cells)
                columns = names if set(COLUMNS[:_NUM_REQUIRED]) <= set(names) else COLUMNS[: len(cells)]
                if len(columns) < _NUM_REQUIRED or sorted(columns) != sorted(set(columns) & set(COLUMNS)):
                    message = f"has the columns {content[:80]!r}; needed are image, question, answer and maybe audio"
                    raise self._error("BAD_TEXT_FILE", line, message)
                if columns == names:
                    continue
            if len(cells) != len(columns):
                message = f"has {len(cells)} columns separated by tabs; {len(columns)} are needed: {', '.join(columns)}"
                raise self._error("BAD_TEXT_FILE", line, message)
            row = dict(zip(columns, cells, strict=True))
            rows.append((line, {**row, "question": _plain(row["question"]), "answer": _plain(row["answer"])}))
        if not rows:
            raise InvalidArgument("BAD_TEXT_FILE", f"{self._text_file} has no questions", field="text_file")
        return rows

    def _row(self, line: int, cells: dict[str, str], numbers: dict[str, int]) -> _Row:
        for name, cell in cells.items():
            if not cell.strip():
                raise self._error("BAD_TEXT_FILE", line, f"has no {name}")
        answer = cells["answer"]
        if answer not in numbers:
            known = ", ".join(self.answers[:50])
            raise self._error("UNKNOWN_LABEL", line, f"has the answer {answer[:80]!r}, which is none of: {known}")
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
