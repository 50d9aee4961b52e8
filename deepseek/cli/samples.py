"""Samples for `deepseek predict`: the rows of a table or the media files of a folder, as values that a model takes."""

import json
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InvalidArgument, MeshError
from deepseek.cli.rows import Row, columns, is_json_lines, read_rows
from deepseek.client.names import short_name
from deepseek.interchange.field_names import columns_of_fields
from deepseek.interchange.kinds import kind_of_name
from deepseek.interchange.tree import is_hidden

if TYPE_CHECKING:
    from deepseek.client.predictor import Predictor
    from deepseek.models.manifest import TensorSpec

_MEDIA = ("image", "audio")
_TEXTS = ("words", "characters")
_MAX_COPIED_CHARS = 200
"""Arrays whose text is longer are not copied to the file of predictions."""
_NUM_EXAMINED = 64


class Samples:
    """The samples in a file or folder. Iterating yields its rows; a broken row does not affect the others.

    Args:
        predictor: The model.
        path: Table, or folder of the only media field of the model.
        skip: Columns that are not passed to the model.

    Attributes:
        columns: Names of the columns, including those that are skipped.
        long: Columns that hold long arrays.

    Raises:
        InvalidArgument: BAD_FILE, UNKNOWN_FIELD if there is no column of `skip`, or MISSING_FIELD if the table as a
            whole lacks columns that the model needs.
    """

    def __init__(self, predictor: "Predictor", path: Path, skip: Collection[str] = ()) -> None:
        self._predictor, self._path, self._skip = predictor, path, skip
        _check_is_table(predictor, path)
        self._folder = path if path.is_dir() else path.parent
        self.columns = [_media_field(predictor, path)] if path.is_dir() else columns(path)
        if unknown := [name for name in skip if name not in self.columns]:
            raise InvalidArgument("UNKNOWN_FIELD", f"{self._found([unknown[0]])}; correct the name", field="--skip")
        self._names = columns_by_name(predictor, [name for name in self.columns if name not in skip])
        self._joins = predictor.inputs.joins_columns and not self._names
        if self.columns:
            self._check()
        first = list(islice(self, _NUM_EXAMINED))
        self.long = {name for row in first for name, value in row.values.items() if self._is_long(name, value)}

    def __iter__(self) -> Iterator[Row]:
        if not self._path.is_dir():
            yield from read_rows(self._path)
            return
        for file in _media_files(self._path, self.columns[0], self._predictor):
            yield Row({self.columns[0]: str(file.relative_to(self._path))})

    def values(self, row: Row) -> dict[str, Any] | MeshError:
        """Returns the values that the model takes from a row, or why they cannot be read."""
        if row.error:
            return row.error
        if self._joins:
            given = {name: value for name, value in row.values.items() if name not in self._skip}
        else:
            given = {self._names[name]: value for name, value in row.values.items() if name in self._names}
        inputs = self._predictor.inputs
        try:
            texts = inputs.gathered(
                {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
            )
            # Values that are not text keep their types, unless they were joined into an input.
            texts = {name: text for name, text in texts.items() if isinstance(given.get(name, text), str)}
            return {**given, **from_text(self._predictor, texts, self._folder)}
        except MeshError as error:
            return error

    def _check(self) -> None:
        if self._joins:
            given = [name for name in self.columns if name not in self._skip]
            try:
                self._predictor.inputs.check_columns(given)
            except InvalidArgument as error:
                hint = " with --skip COLUMN" if error.reason == "UNKNOWN_FIELD" else ""
                raise InvalidArgument(error.reason, error.message + hint, field="--file") from error
            return
        needed = _names_of_inputs(self._predictor, self.columns)
        if missing := [name for name in needed if name not in self._names.values()]:
            message = f"{self._found(missing)}; rename or add what is missing"
            raise InvalidArgument("MISSING_FIELD", message, field="--file")

    def _found(self, missing: list[str]) -> str:
        word = "field" if is_json_lines(self._path) else "column"
        names = f"{word}{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}"
        return f"{self._path} has no {names}; it has: {', '.join(name or repr(name) for name in self.columns)[:1000]}"

    def _is_long(self, column: str, value: Any) -> bool:
        arrays = {
            name
            for spec, field in _specs(self._predictor)
            if not spec.encoder and spec.datatype != "BYTES"
            for name in (spec.name, field)
        }
        if isinstance(value, str):
            return self._names.get(column) in arrays and len(value) > _MAX_COPIED_CHARS
        return isinstance(value, list | dict) and len(json.dumps(value)) > _MAX_COPIED_CHARS


def columns_by_name(predictor: "Predictor", given: list[str]) -> dict[str, str]:
    """Returns the columns that the model needs, each with the name of its field or input.

    Columns that are named as in the source of a data set get the names that an import gives them.
    """
    return columns_of_fields(given, _names_of_inputs(predictor, given))


def from_text(predictor: "Predictor", texts: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Converts text to the values that the model takes. Refuses the recordings that an import refuses.

    Raises:
        InvalidArgument: The error of `SampleEncoder.from_text`, DAMAGED_AUDIO, SILENT_AUDIO or CLIPPED_AUDIO.
    """
    from deepseek.interchange.sound import check_sound

    values = predictor.inputs.from_text(texts, folder)
    for name in _fields_with(predictor, ("audio",)) & values.keys():
        try:
            check_sound(values[name], name)
        except InvalidArgument as error:
            raise InvalidArgument(error.reason, error.message, field=name) from error
    return values


def empty_texts(predictor: "Predictor", values: Mapping[str, Any]) -> list[str]:
    """Returns the names of the texts of a sample that have no characters other than spaces."""
    names = sorted(_fields_with(predictor, _TEXTS) & values.keys())
    return [name for name in names if isinstance(values[name], str) and not values[name].strip()]


def _specs(predictor: "Predictor") -> "Iterator[tuple[TensorSpec, str]]":
    """Yields each input of a model with the name of its field."""
    return zip(predictor.manifest.inputs, predictor.inputs.fields, strict=True)


def _names_of_inputs(predictor: "Predictor", given: Collection[str]) -> list[str]:
    """Returns the field of each input, or the name of the input if only that is given."""
    return [spec.name if spec.name in given and field not in given else field for spec, field in _specs(predictor)]


def _fields_with(predictor: "Predictor", encoders: Collection[str]) -> set[str]:
    """Returns the names of the inputs that have one of the encoders, and of their fields."""
    return {
        name
        for spec, field in _specs(predictor)
        if spec.encoder and spec.encoder.name in encoders
        for name in (spec.name, field)
    }


def _check_is_table(predictor: "Predictor", path: Path) -> None:
    kind = "" if path.is_dir() else kind_of_name(path.name)
    if kind not in _MEDIA:
        return
    field = next((name for name in predictor.inputs.fields if name in _fields_with(predictor, (kind,))), "FIELD")
    model = short_name(predictor.version)
    message = f"{path} is not a table; predict one file with: deepseek predict {model} {field}={path}"
    raise InvalidArgument("BAD_FILE", message, field="--file")


def _media_field(predictor: "Predictor", folder: Path) -> str:
    """Returns the only field of a model, which must be an image or a recording."""
    fields, media = predictor.inputs.fields, _fields_with(predictor, _MEDIA)
    if len(fields) == 1 and fields[0] in media:
        return fields[0]
    paths = ", with paths relative to the file," if media else ""
    message = (
        f"{folder} is a folder, but {short_name(predictor.version)} does not take just one image or recording per "
        f"sample; write a .csv file with the heading {','.join(fields)} and one row per sample{paths} and pass it with "
        "--file"
    )
    raise InvalidArgument("BAD_FILE", message, field="--file")


def _media_files(folder: Path, field: str, predictor: "Predictor") -> list[Path]:
    kind = next(kind for kind in _MEDIA if field in _fields_with(predictor, (kind,)))
    named = sorted(file for file in folder.rglob("*") if kind_of_name(file.name) == kind)
    found = [file for file in named if not any(map(is_hidden, file.relative_to(folder).parts)) and file.is_file()]
    if not found:
        message = (
            f"the folder {folder} contains no file that is named like {'an image' if kind == 'image' else 'audio'}"
        )
        raise InvalidArgument("BAD_FILE", f"{message}; pass another folder or a table", field="--file")
    return found
