"""The interface of all sources of an import, and the rows that they yield."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import InvalidArgument, MeshError
from deepseek.data.canonical_json import is_unicode
from deepseek.data.manifest import Field
from deepseek.data.rejected import Rejected

MAX_FILE_BYTES = (64 << 20) - 4096
"""Maximum size of a file that becomes a value. Larger values do not fit into one message of the ingest service."""


@dataclass(frozen=True)
class Blob:
    """Content of a file that belongs to a row.

    Attributes:
        name: Name of the file. The extension of this name states the file's type.
        size_bytes: Size of the file.
        load: Function that returns the content. It works only until the next row is read from the source.
    """

    name: str
    size_bytes: int
    load: Callable[[], bytes]

    def read(self) -> bytes:
        """Returns the content.

        Raises:
            InvalidArgument: TOO_LARGE; the file is not read. UNREADABLE_FILE.
        """
        if self.size_bytes > MAX_FILE_BYTES:
            message = f"{self.name} has {self.size_bytes} bytes; at most {MAX_FILE_BYTES} are accepted"
            raise InvalidArgument("TOO_LARGE", message)
        try:
            return self.load()
        except OSError as error:
            message = f"{self.name} cannot be read: {error.strerror or error}"
            raise InvalidArgument("UNREADABLE_FILE", message) from error


@dataclass(frozen=True)
class Row:
    """One row of a source, before its values are converted to the types of the schema.

    Attributes:
        key: Key that the source proposes. It is unique unless a file repeats it.
        place: Place of the row, `<file>` or `<file>:<line>`.
        split: Split of the row; empty if the source does not divide its rows into splits.
        values: Values by column: str, int, float, bool, bytes, Blob, None if the value is missing, or a list of these.
    """

    key: str
    place: str
    split: str
    values: Mapping[str, Any]

    def rejected(self, error: MeshError) -> Rejected:
        """Returns the rejection of the row by an error, with all values that can be read.

        Files are read, unless they are too large together; then their names are kept.
        """
        values = {name: kept(value) for name, value in self.values.items()}
        if _num_bytes(values) > MAX_FILE_BYTES:
            values = {name: kept(_without_files(value)) for name, value in self.values.items()}
        is_small = _num_bytes(values) <= MAX_FILE_BYTES
        return Rejected.from_error(self.key, self.place, error, self.split, values if is_small else None)


def _num_bytes(values: Mapping[str, list[Any]]) -> int:
    return sum(len(one) for items in values.values() for one in items if isinstance(one, str | bytes))


def _without_files(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_files(one) for one in value]
    return value.name if isinstance(value, Blob) else value


def kept(value: Any) -> list[Any]:
    """Returns a value of a row as a quarantine keeps it: a list of bytes, texts, numbers and None."""
    return [_kept_item(one) for one in (value if isinstance(value, list) else (value,))]


def _kept_item(value: Any) -> Any:
    match value:
        case Blob():
            try:
                return value.read()
            except InvalidArgument:
                return value.name if is_unicode(value.name) else None
        case str():
            return value if is_unicode(value) else _original(value)
        case bool():
            return str(value).lower()
        case int():
            return value if -(1 << 63) <= value < 1 << 63 else str(value)
        case list():
            return json.dumps(value, ensure_ascii=True, default=str)
    return value


def _original(text: str) -> bytes:
    """Returns the bytes of a text that is not valid Unicode: those that were read, or the surrogates of JSON."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")


@dataclass(frozen=True)
class Hint:
    """What a source declares about a column.

    Attributes:
        type: Type of the field, one of FIELD_TYPES; empty if the source declares only `labels`.
        labels: Names of the classes. An integer in the column is an index into these names.
    """

    type: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Declared:
    """What a source declares about its content.

    Attributes:
        hints: Hints by column.
        fields: Complete schema, if an export of this package recorded it; otherwise empty.
        notices: Sentences about files that are not read.
    """

    hints: Mapping[str, Hint] = field(default_factory=dict)
    fields: tuple[Field, ...] = ()
    notices: tuple[str, ...] = ()


class Source(ABC):
    """Reads rows from files. Not thread-safe.

    Every call of `rows` starts at the first row and yields equal rows in equal order, as long as the files do not
    change. A source keeps one row or one small batch of rows in memory. A row that cannot be read is yielded as a
    `Rejected`, and the rows after it are read.
    """

    is_typed: bool = True
    """Whether text in a row is text. Otherwise, as in a CSV file, it may be the spelling of a number."""

    @abstractmethod
    def declared(self) -> Declared:
        """Returns what the source declares about its columns."""

    @abstractmethod
    def rows(self) -> Iterator[Row | Rejected]:
        """Yields the rows.

        Raises:
            InvalidArgument: BAD_SOURCE if the source as a whole cannot be read.
            FailedPrecondition: PACKAGE_MISSING.
        """

    def file(self, name: str) -> Blob:
        """Returns a file that a column names, relative to the folder of the source.

        Raises:
            InvalidArgument: BAD_FILE_NAME if the name leads out of the root; FILE_NOT_FOUND.
        """
        raise InvalidArgument("FILE_NOT_FOUND", f"names the file {name[:80]!r}; this source has no folder")
