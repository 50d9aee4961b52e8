"""Images, questions, answers and sound from plain files, without a mesh.

The questions lie in one UTF-8 text file of tab-separated columns, the images (and sound) in folders. The text file is
read and checked when the data set is made, the files it names are only looked for then, and decoded on access: such a
folder may be far larger than memory. For a data set that is to be kept, versioned and shared, upload it to a mesh
instead.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from common.errors import InvalidArgument
from deepseek.data import media
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample

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
        image_dir: Folder of the images; names in the text file are relative to it.
        text_file: Tab-separated UTF-8 lines `image, question, answer[, audio]`. A first line with these names is a
            header and may put them in another order. Empty lines are skipped.
        transform: Applied to every image, e.g. `Compose([Resize(224), ToTensor()])`.
        audio_dir: Folder of the sound; default `image_dir`.
        answers: The classes in order; default the answers in the file, sorted. Give those of the training data for a
            test set.

    Attributes:
        answers: The classes.

    Raises:
        FileNotFoundError: A folder or the text file does not exist.
        InvalidArgument: BAD_TEXT_FILE, BAD_FILE_NAME, FILE_NOT_FOUND or UNKNOWN_LABEL; the message begins with
            the text file and the line.
    """

    def __init__(
        self,
        image_dir: str | Path,
        text_file: str | Path,
        transform: Callable[[Any], Any] | None = None,
        audio_dir: str | Path | None = None,
        answers: tuple[str, ...] | list[str] | None = None,
    ) -> None:
        self._image_dir = _folder(image_dir)
        self._audio_dir = _folder(audio_dir) if audio_dir is not None else self._image_dir
        self._text_file = Path(text_file)
        self._transform = transform
        lines = self._read_lines()
        found = sorted({cells["answer"] for _, cells in lines})
        self.answers = tuple(found if answers is None else answers)
        numbers = {answer: number for number, answer in enumerate(self.answers)}
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
        """
        by_image: dict[Path, list[_Row]] = {}
        for row in self._rows:
            by_image.setdefault(row.image, []).append(row)
        for image, rows in by_image.items():
            values: dict[str, Any] = {
                "image": image.read_bytes(),
                "question": [row.question for row in rows],
                "answer": [self.answers[row.answer] for row in rows],
            }
            if rows[0].audio is not None:
                values["audio"] = [row.audio.read_bytes() for row in rows if row.audio]
            yield Sample(key=f"{split}/{image.relative_to(self._image_dir).as_posix()}", split=split, values=values)

    @property
    def num_images(self) -> int:
        """How many samples `samples` gives."""
        return len({row.image for row in self._rows})

    def _read_lines(self) -> list[tuple[int, dict[str, str]]]:
        try:
            text = self._text_file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise self._error("BAD_TEXT_FILE", line, "is not UTF-8") from error
        columns: tuple[str, ...] = ()
        rows = []
        # Not splitlines(), which also splits at characters that a question may hold.
        for line, content in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
            if not content.strip():
                continue
            cells = content.split("\t")
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
            rows.append((line, dict(zip(columns, cells, strict=True))))
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

    def _file(self, line: int, folder: Path, name: str) -> Path:
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts or "\\" in name or "\0" in name:
            message = f"names the file {name[:80]!r}; only files inside {folder} are read"
            raise self._error("BAD_FILE_NAME", line, message)
        path = (folder / relative).resolve()
        if not path.is_relative_to(folder):
            message = f"names the file {name[:80]!r}, a link that leads out of {folder}"
            raise self._error("BAD_FILE_NAME", line, message)
        if not path.is_file():
            raise self._error("FILE_NOT_FOUND", line, f"names the file {name[:80]!r}, which is not in {folder}")
        return path

    def _error(self, reason: str, line: int, message: str) -> InvalidArgument:
        return InvalidArgument(reason, f"{self._text_file}:{line} {message}", field="text_file")


def _folder(path: str | Path) -> Path:
    resolved = Path(path).resolve()
    if not resolved.is_dir():
        raise FileNotFoundError(f"there is no folder {path}")
    return resolved


def _array(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.array(image, np.uint8)
