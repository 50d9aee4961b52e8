"""Rows of CSV, TSV and JSON Lines files, read and written one at a time."""

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from common.errors import InvalidArgument
from common.files import replacing
from deepseek.cli.output import writing
from deepseek.interchange.source import MAX_FILE_BYTES
from deepseek.interchange.tables import all_numbers, delimiter_of, header_names

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")
_MODE = 0o666
"""Permissions of a written file, as for other files that people create: the umask restricts them."""


@dataclass(frozen=True)
class Row:
    """A row of a file.

    Attributes:
        values: Values by column or field. Those of a table are text; those of JSON Lines have their JSON types.
        error: What is wrong with the row itself, with the number of its line; None if nothing is.
    """

    values: dict[str, Any]
    error: InvalidArgument | None = None


def read_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a file. A broken row does not affect the others.

    Raises:
        InvalidArgument: BAD_FILE if the file cannot be read.
    """
    suffix = _format(path)
    with _reading(path) as file:
        if suffix in _JSON_LINES:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _object(line, f"{path}:{number}")
            return
        names, first, reader = _table(file, path)
        for cells in itertools.chain(first, reader):
            values = dict(zip(names, cells, strict=False))
            if len(cells) == len(names):
                yield Row(values)
            elif cells:
                message = f"{path}:{reader.line_num} has {len(cells)} cells; the heading has {len(names)} columns"
                yield Row(values, InvalidArgument("BAD_ROW", message))


def is_json_lines(path: Path) -> bool:
    """Whether a file is JSON Lines, not a table, going by its name."""
    return path.suffix.lower() in _JSON_LINES


def columns(path: Path) -> list[str]:
    """Returns the columns of a table, or the names of all fields in a JSON Lines file.

    Raises:
        InvalidArgument: BAD_FILE if the file cannot be read.
    """
    if _format(path) in _JSON_LINES:
        return list(dict.fromkeys(name for row in read_rows(path) for name in row.values))
    with _reading(path) as file:
        return _table(file, path)[0]


@contextmanager
def write_rows(path: Path, columns: Sequence[str]) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields a function that writes a row to a new file, which replaces `path` at the end of the `with` block.

    If the block raises, the old file remains.

    Args:
        path: The file. Its suffix determines the format.
        columns: Columns of a table. A JSON Lines file does not need them.
    """
    suffix = _format(path)
    with writing(path, "--out"), replacing(path, mode=_MODE, durable=False) as binary:
        file = io.TextIOWrapper(binary, encoding="utf-8", newline="")
        try:
            if suffix in _JSON_LINES:
                yield lambda row: print(json.dumps(row, ensure_ascii=False), file=file)
            else:
                table = csv.DictWriter(file, list(dict.fromkeys(columns)), delimiter=_DELIMITERS[suffix])
                table.writeheader()
                yield table.writerow
        finally:
            file.detach()


def _table(file: TextIO, path: Path) -> tuple[list[str], list[list[str]], Any]:
    """Reads the heading of a table by the rules of an import: delimiter, names, and a first row that is no heading.

    Returns:
        names: Names of the columns.
        first: The first row, if it consists of numbers and is thus no heading; otherwise, nothing.
        reader: Reader of the other rows.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FILE_BYTES))
    heading = next((line for line in file if line.strip()), "")
    file.seek(0)
    reader = csv.reader(file, delimiter=delimiter_of(path.name.lower(), heading), strict=True)
    cells = next((cells for cells in reader if cells), [])
    return header_names(cells), [cells] if all_numbers(cells) else [], reader


@contextmanager
def _reading(path: Path) -> Iterator[TextIO]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidArgument("BAD_FILE", f"{path} cannot be read: {error}", field="--file") from error


def _format(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (*_DELIMITERS, *_JSON_LINES):
        known = ", ".join((*_DELIMITERS, *_JSON_LINES))
        raise InvalidArgument("BAD_FILE", f"{path} is not one of {known}; rename or convert the file", field="--file")
    return suffix


def _object(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Row({}, InvalidArgument("BAD_ROW", f"{where} is not JSON: {error}"))
    return Row(row) if isinstance(row, dict) else Row({}, InvalidArgument("BAD_ROW", f"{where} is not a JSON object"))
