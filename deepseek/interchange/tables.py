"""Reads CSV, TSV, JSONL and text files, one row at a time.

A row that is damaged, e.g. because a quote is missing, costs only this row: the lines after it are read again.
"""

import csv
import gzip
import io
import json
import math
import zlib
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, BinaryIO, cast

from common.errors import InvalidArgument
from common.text_files import NotUtf8, decode_text
from deepseek.data.canonical_json import is_unicode
from deepseek.data.rejected import Rejected
from deepseek.interchange.source import MAX_FILE_BYTES, Blob, Declared, Hint, Row, Source, kept
from deepseek.interchange.tree import Tree

MAX_ROW_BYTES = 16 << 20
"""Maximum size of one row of a table."""

MAX_PASSAGE = MAX_ROW_BYTES // 4
"""Maximum number of characters of a passage. A character of UTF-8 has at most 4 bytes."""

KEY_COLUMN, SPLIT_COLUMN = "_key", "_split"
"""Columns in which an export writes the key and the split of a sample."""


def row_of(place: str, split: str, values: dict[str, Any]) -> Row:
    """Returns a row, with the key and the split that an export has recorded in it, if any."""
    key, own_split = values.pop(KEY_COLUMN, None), values.pop(SPLIT_COLUMN, None)
    return Row(str(key or place), place, str(own_split or split), values)


class _LineSource(Source):
    """A text file whose rows are made of lines.

    Args:
        tree: Tree that contains the file, and the files that its columns name.
        path: Path of the file in the tree. Files that end with `.gz` are decompressed.
        split: Split of the rows; empty if the file states none.
        declared: What an export has declared about the columns.
    """

    def __init__(self, tree: Tree, path: str, *, split: str = "", declared: Declared | None = None) -> None:
        self._tree, self._path, self._split = tree, path, split
        self._declared = declared or Declared()

    def declared(self) -> Declared:
        return self._declared

    def file(self, name: str) -> Blob:
        return self._tree.file(name)

    def rows(self) -> Iterator[Row | Rejected]:
        with self._tree.open(self._path) as raw:
            opened = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if self._path.endswith(".gz") else raw
            try:
                _check_encoding(opened, self._path)
                yield from self._parsed(opened)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                yield self._rejected(0, "TRUNCATED_FILE", f"cannot be decompressed to its end: {error}")

    @abstractmethod
    def _parsed(self, file: BinaryIO) -> Iterator[Row | Rejected]:
        """Yields the rows of the opened file."""

    def _rejected(self, line: int, reason: str, problem: str, text: str = "") -> Rejected:
        """Returns the rejection of a row, whose text becomes the value `line`, or of the whole file."""
        place = f"{self._path}:{line}" if line else self._path
        values = {"line": kept(text)} if line else {}
        return Rejected(place if line else "", place, reason, f"{place} {problem}", split=self._split, values=values)

    def _text_problem(self, line: int, text: str) -> Rejected | None:
        """Returns the rejection of a text that is not valid UTF-8."""
        return (
            None if is_unicode(text) else self._rejected(line, "BAD_TEXT", "is not valid UTF-8; save it as UTF-8", text)
        )


class CsvSource(_LineSource):
    """A CSV or TSV file, see `Table`."""

    is_typed = False

    def _parsed(self, file: BinaryIO) -> Iterator[Row | Rejected]:
        table = Table(file, self._path)
        for number, text in table:
            if broken := self._text_problem(number, text):
                yield broken
                continue
            if len(text) > MAX_ROW_BYTES:
                yield self._rejected(number, "TOO_LARGE", f"has more than {MAX_ROW_BYTES} characters", text)
                continue
            cells = table.cells(text)
            if len(cells) != len(table.names):
                problem = f"has {len(cells)} cells; the header has {len(table.names)}. Add or remove cells or quotes"
                yield self._rejected(number, "RAGGED_ROW", problem, text)
                continue
            yield row_of(f"{self._path}:{number}", self._split, dict(zip(table.names, cells, strict=True)))


class JsonlSource(_LineSource):
    """A JSONL file: one JSON object per line. Objects inside an object are read as JSON text."""

    def _parsed(self, file: BinaryIO) -> Iterator[Row | Rejected]:
        for number, text in enumerate(_lines(file), 1):
            if not text.strip():
                continue
            if broken := self._text_problem(number, text):
                yield broken
                continue
            if len(text) > MAX_ROW_BYTES:
                yield self._rejected(number, "TOO_LARGE", f"has more than {MAX_ROW_BYTES} characters", text)
                continue
            try:
                values = json.loads(text)
            except (ValueError, RecursionError) as error:
                yield self._rejected(number, "BAD_JSON", f"is not valid JSON: {str(error)[:200]}", text)
                continue
            if not isinstance(values, dict):
                problem = f"must be a JSON object, not {type(values).__name__}"
                yield self._rejected(number, "BAD_JSON", problem, text)
                continue
            yield row_of(f"{self._path}:{number}", self._split, {name: plain(value) for name, value in values.items()})


class TextSource(_LineSource):
    """A text file: one sample per line that is not empty, or per passage, in the column `text`.

    Args:
        tree: Tree that contains the file.
        path: Path of the file in the tree.
        split: Split of the samples; empty if the file states none.
        passage: Number of characters per passage, line ends included; None for one sample per line.
    """

    def __init__(self, tree: Tree, path: str, *, split: str = "", passage: int | None = None) -> None:
        super().__init__(tree, path, split=split)
        self._passage = passage

    def declared(self) -> Declared:
        return Declared({"text": Hint("text")})

    def _parsed(self, file: BinaryIO) -> Iterator[Row | Rejected]:
        if self._passage is not None:
            yield from self._passages(file, self._passage)
            return
        for number, line in enumerate(_lines(file), 1):
            text = line.rstrip("\r\n")
            if not text.strip():
                continue
            if broken := self._text_problem(number, text):
                yield broken
            elif len(text) > MAX_ROW_BYTES:
                yield self._rejected(number, "TOO_LARGE", f"has more than {MAX_ROW_BYTES} characters", text)
            else:
                yield Row(place := f"{self._path}:{number}", place, self._split, {"text": text})

    def _passages(self, file: BinaryIO, length: int) -> Iterator[Row | Rejected]:
        opened = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape")
        try:
            number = 0
            while text := opened.read(length):
                number += 1
                place = f"{self._path}#{number}"
                if not is_unicode(text):
                    message, values = f"{place} is not valid UTF-8; save the file as UTF-8", {"text": kept(text)}
                    yield Rejected(place, place, "BAD_TEXT", message, split=self._split, values=values)
                elif text.strip():
                    yield Row(place, place, self._split, {"text": text})
        finally:
            if not file.closed:
                opened.detach()


def plain(value: Any) -> Any:
    """Returns a value of a JSON document or a Parquet column as a value of a `Row`."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, float) and math.isnan(value):
        return None
    return value if value is None or isinstance(value, str | bytes | int | float) else str(value)


def _lines(file: BinaryIO) -> Iterator[str]:
    """Yields lines, which end with LF, CR LF or CR, as text, cut to MAX_ROW_BYTES characters.

    Bytes that are not UTF-8 become lone surrogates.
    """
    text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
    try:
        while line := text.readline(MAX_ROW_BYTES + 1):
            rest = line
            while len(rest) >= MAX_ROW_BYTES and not rest.endswith(("\n", "\r")):
                rest = text.readline(MAX_ROW_BYTES)
            yield line
    finally:
        if not file.closed:
            text.detach()


class _Records:
    """The rows of a CSV file as text, each with the number of its first line.

    A row continues on the next line while a quote is open. If the row that results does not have the expected number of
    cells, only its first line is a row, and the lines after it are read again as rows of their own.

    Args:
        file: The file.

    Attributes:
        delimiter: Delimiter of cells; set it after the first row.
        num_cells: Expected number of cells; 0 before the first row.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._lines = _lines(file)
        self._again: deque[str] = deque()
        self.delimiter = ","
        self.num_cells = 0

    def __iter__(self) -> Iterator[tuple[int, str]]:
        number = 1
        while (line := self._next()) is not None:
            row = self._row(line)
            yield number, "".join(row)
            number += len(row)

    def _next(self) -> str | None:
        return self._again.popleft() if self._again else next(self._lines, None)

    def _row(self, first: str) -> Sequence[str]:
        if not _is_open(first) or (self.num_cells and self._fits(first)):
            return [first]
        row, size, is_open = [first], len(first), True
        while is_open and size <= MAX_ROW_BYTES and (line := self._next()) is not None:
            row.append(line)
            size += len(line)
            is_open ^= _is_open(line)
        if is_open or (self.num_cells and len(_cells("".join(row), self.delimiter)) != self.num_cells):
            self._again.extendleft(reversed(row[1:]))
            return row[:1]
        return row

    def _fits(self, line: str) -> bool:
        """Returns whether a line with a stray quote is a whole row nevertheless, e.g. `5" disk,1`."""
        try:
            return len(next(csv.reader([line], delimiter=self.delimiter, strict=True))) == self.num_cells
        except csv.Error:
            return False


def _is_open(line: str) -> bool:
    return line.count('"') % 2 == 1


class Table:
    """The rows of a CSV or TSV file as text, each with the number of its first line.

    The first row is a header, unless all of its cells are numbers. Iterate once.

    Args:
        file: The file, from its start.
        path: Its path, whose extension determines whether tabs separate cells.

    Attributes:
        names: Names of the columns; empty if the file has no rows.
    """

    def __init__(self, file: BinaryIO, path: str) -> None:
        records = _Records(file)
        self._rows = ((number, text) for number, text in records if text.strip())
        self._first = list(islice(self._rows, 1))
        header = self._first[0][1] if self._first else ""
        records.delimiter = self._delimiter = _delimiter(path, header)
        cells = self.cells(header)
        self.names = _names(cells)
        records.num_cells = len(self.names)
        if not _all_numbers(cells):
            self._first = []

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return chain(self._first, self._rows)

    def cells(self, text: str) -> list[str]:
        """Returns the cells of a row."""
        return _cells(text, self._delimiter)


def _cells(text: str, delimiter: str) -> list[str]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FILE_BYTES))
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])


def _delimiter(path: str, header: str) -> str:
    """Returns the delimiter of a table, given its header: a tab, comma, semicolon or bar."""
    if path.removesuffix(".gz").endswith((".tsv", ".tab")):
        return "\t"
    return max(",;\t|", key=header.count)


def _names(cells: Sequence[str]) -> list[str]:
    """Returns names of columns: the cells of the header, made unique, or `column_<n>` for a cell without a name."""
    names: list[str] = []
    for number, cell in enumerate(cells, 1):
        name = f"column_{number}" if _all_numbers(cells) or not cell.strip() else cell.strip()
        while name in names:
            name += "_"
        names.append(name)
    return names


def _all_numbers(cells: Sequence[str]) -> bool:
    """Returns whether a row consists of numbers only, so it is no header."""
    try:
        return bool([float(cell) for cell in cells])
    except ValueError:
        return False


def _check_encoding(file: BinaryIO, name: str) -> None:
    """Rejects a file in UTF-16."""
    head = file.read(4)
    file.seek(0)
    try:
        decode_text(head if len(head) % 2 == 0 else b"")
    except NotUtf8 as error:
        if "UTF-16" in str(error):
            raise InvalidArgument("BAD_SOURCE", f"{name} {error}", field="source") from error
