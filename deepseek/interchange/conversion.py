"""Converts the rows of a source to samples, and checks them as the ingest service does."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from common.errors import InvalidArgument
from deepseek.data.manifest import Field
from deepseek.data.rejected import Rejected
from deepseek.data.sample import Sample
from deepseek.data.shards import check_sample
from deepseek.interchange.columns import MISSING, integer, label_text, number
from deepseek.interchange.inference import Plan
from deepseek.interchange.joined import decoded
from deepseek.interchange.kinds import check_extension
from deepseek.interchange.schema import SKIP, Wishes
from deepseek.interchange.sound import check_sound
from deepseek.interchange.source import MAX_FILE_BYTES, Blob, Row, Source
from deepseek.interchange.splits import Splitter

_FIELD_OVERHEAD_BYTES = 96


class Converter:
    """Converts rows to samples. `convert` must be called in the order of the rows; `check` is thread-safe.

    Args:
        source: Source of the rows.
        plan: Plan for the import.
        wishes: The user's instructions.
        splitter: Assignment of rows to splits.

    Attributes:
        missing: Number of missing values by field, so far.
    """

    def __init__(self, source: Source, plan: Plan, wishes: Wishes, splitter: Splitter) -> None:
        self._source, self._plan, self._splitter = source, plan, splitter
        self._key = wishes.key
        self._skipped = {plan.names.find(name) for name, one in wishes.overrides.items() if one.type == SKIP}
        self.missing: Counter[str] = Counter()

    def convert(self, row: Row) -> Sample:
        """Returns the sample for a row. Files are read, but not decoded.

        Raises:
            InvalidArgument: MISSING_FIELD, WRONG_TYPE, UNKNOWN_LABEL, BAD_TEXT, BAD_KEY, BAD_SPLIT, BAD_FILE_NAME,
                FILE_NOT_FOUND, UNREADABLE_FILE, WRONG_EXTENSION or TOO_LARGE. The message begins with the row's place.
        """
        try:
            values = {self._plan.names.of(name): value for name, value in row.values.items()}
            key, split = self.key(row), self._split(row)
            return Sample(key, split, self._fields(values), row.place)
        except InvalidArgument as error:
            message = error.message if error.message.startswith(row.place) else f"{row.place}: {error.message}"
            raise InvalidArgument(error.reason, message, field=error.field) from error

    def key(self, row: Row) -> str:
        """Returns the key of a row; empty if the row lacks it."""
        if not self._key:
            return row.key
        stated = self._value(row, self._key)
        return "" if stated is None else label_text(stated)

    def rejected(self, row: Row, error: InvalidArgument) -> Rejected:
        """Returns the rejection of a row, with the values of its fields, the files that these name, and other files.

        Columns that the user has left out are left out here, too.
        """
        fields = {one.name: one for one in self._plan.fields}
        values = {
            name: self._with_files(value, fields[name]) if name in fields else value
            for name, value in ((self._plan.names.of(column), value) for column, value in row.values.items())
            if name in fields or (isinstance(value, Blob) and name not in self._skipped)
        }
        split = "" if error.reason == "BAD_SPLIT" else self._split(row)
        return replace(row, key=self.key(row), split=split, values=values).rejected(error)

    def _with_files(self, value: Any, one: Field) -> Any:
        """Returns a value in which each name of a file that exists is replaced by the file."""
        if one.type not in ("image", "audio", "bytes"):
            return value
        try:
            if one.repeated:
                value = value if isinstance(value, list) else _json_list(value)
            if isinstance(value, list):
                return [self._with_files(item, replace(one, repeated=False)) for item in value]
            return self._source.file(value) if isinstance(value, str) else value
        except InvalidArgument:
            return value

    def placed(self, rejected: Rejected) -> Rejected:
        """Returns a sample that the source rejected, with the split of its row if no column states it."""
        if self._splitter.column:
            return rejected
        return replace(rejected, split=self._splitter.split(rejected.key, rejected.split, {}))

    def _split(self, row: Row) -> str:
        column = self._splitter.column
        return self._splitter.split(self.key(row), row.split, {column: self._value(row, column)} if column else {})

    def _value(self, row: Row, column: str) -> Any:
        """Returns the value of a column that is named as in the source or by its field."""
        values = {self._plan.names.of(name): value for name, value in row.values.items()}
        return values.get(self._plan.names.find(column))

    def check(self, sample: Sample, *, decodes: bool) -> None:
        """Checks a sample as the ingest service does. Also rejects silent and clipped recordings, except in exports.

        Args:
            sample: Sample from `convert`.
            decodes: Whether to decode images. Otherwise, damaged images are left to the ingest service.

        Raises:
            InvalidArgument: An error of `check_sample`, TOO_LARGE, SILENT_AUDIO or CLIPPED_AUDIO.
        """
        check_sample(sample, self._plan.fields, decodes=decodes)
        size = 0
        for one in self._plan.fields:
            value = sample.values[one.name]
            for item in value if one.repeated else (value,):
                size += _FIELD_OVERHEAD_BYTES + (len(item) if isinstance(item, bytes | str) else 0)
                if one.type == "audio" and not self._plan.is_export:
                    check_sound(item, one.name)
        if size > MAX_FILE_BYTES:
            message = f"the sample has {size} bytes; at most {MAX_FILE_BYTES} fit into a message"
            raise InvalidArgument("TOO_LARGE", message)

    def _fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values of all fields. Those after an invalid one are read, too, to count all missing values."""
        found, problem = dict[str, Any](), None
        for one in self._plan.fields:
            try:
                found[one.name] = self._field(values.get(one.name), one)
            except InvalidArgument as error:
                problem = problem or error
        if problem:
            raise problem
        return found

    def _field(self, value: Any, one: Field) -> Any:
        if one.repeated:
            items = value if isinstance(value, list) else _json_list(value)
            return [self._item(item, one) for item in items]
        if isinstance(value, list):
            raise InvalidArgument(
                "WRONG_TYPE", f"{one.name} is a list; --schema '{one.name}:{one.type}[]' accepts lists"
            )
        return self._item(value, one)

    def _item(self, value: Any, one: Field) -> Any:
        if _is_missing(value, one, indexes=one.name in self._plan.class_names):
            self.missing[one.name] += 1
            if one.name in self._plan.fills:
                value = self._plan.fills[one.name]
            elif one.type == "text":
                value = ""
            elif one.type in ("image", "audio", "bytes"):
                message = f"{one.name} is missing; add a file for it, or remove this sample"
                raise InvalidArgument("MISSING_FIELD", message)
            else:
                message = f"{one.name} is missing; --fill {one.name}=VALUE sets a value for missing cells"
                raise InvalidArgument("MISSING_FIELD", message)
        match one.type:
            case "image" | "audio" | "bytes":
                return self._content(value, one)
            case "text":
                return _text(value)
            case "label":
                return self._label(value, one)
            case "integer":
                return _integer(value, one.name)
            case _:
                return _number(value, one.name)

    def _content(self, value: Any, one: Field) -> bytes:
        if isinstance(value, str):
            value = self._source.file(value)
        if isinstance(value, Blob):
            data = value.read()
            check_extension(value.name, data)
            return data
        if isinstance(value, bytes):
            return value
        raise _wrong_type(value, "a file", one.name)

    def _label(self, value: Any, one: Field) -> str:
        if one.name in self._plan.class_names and isinstance(value, int) and not isinstance(value, bool):
            if not 0 <= value < len(one.labels):
                message = f"{one.name} is {value}; the classes are 0 to {len(one.labels) - 1}"
                raise InvalidArgument("UNKNOWN_LABEL", message)
            return one.labels[value]
        text = _text(value)
        return text if text in one.label_set else label_text(text)


def _is_missing(value: Any, one: Field, *, indexes: bool) -> bool:
    if value is None or (indexes and value == -1):
        return True
    if not isinstance(value, str) or value in one.label_set:
        return False
    if one.type in ("integer", "number"):
        return value.strip().lower() in MISSING
    return not value.strip() if one.type != "text" else not value


def _json_list(value: Any) -> list[Any]:
    """Returns a list that a CSV file holds as JSON text; a single value becomes a list of one."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument("WRONG_TYPE", f"{value[:80]!r} is not a JSON list") from error
        if isinstance(found, list):
            return found
    return [] if value is None or value == "" else [value]


def _text(value: Any) -> str:
    if isinstance(value, Blob):
        return decoded(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument("BAD_TEXT", "the value is not valid UTF-8") from error
    return value if isinstance(value, str) else label_text(value)


def _integer(value: Any, name: str) -> int:
    found = integer(_text(value)) if isinstance(value, str | Blob) else value
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if not isinstance(found, int) or isinstance(found, bool):
        raise _wrong_type(value, "an integer", name)
    return found


def _number(value: Any, name: str) -> float:
    found = number(_text(value)) if isinstance(value, str | Blob) else value
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise _wrong_type(value, "a number", name)
    return found


def _wrong_type(value: Any, expected: str, name: str) -> InvalidArgument:
    shown = f"{value.name}" if isinstance(value, Blob) else repr(value)[:80]
    return InvalidArgument("WRONG_TYPE", f"{name} is {shown}, which is not {expected}")
