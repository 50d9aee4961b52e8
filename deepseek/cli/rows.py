"""Rows of CSV, TSV and JSON Lines files, read and written one at a time."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from common.errors import InvalidArgument
from common.files import replacing
from deepseek.cli.output import writing

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
        reader = csv.DictReader(file, delimiter=_DELIMITERS[suffix], strict=True)
        for row in reader:
            if None in row or None in row.values():
                names = reader.fieldnames or ()
                num_cells = sum(value is not None for name, value in row.items() if name) + len(row.get(None) or ())
                message = f"{path}:{reader.line_num} has {num_cells} cells; the heading has {len(names)} columns"
                values = {name: value for name, value in row.items() if name and value is not None}
                yield Row(values, InvalidArgument("BAD_ROW", message))
            else:
                yield Row(dict(row))


def is_json_lines(path: Path) -> bool:
    """Whether a file is JSON Lines, not a table, going by its name."""
    return path.suffix.lower() in _JSON_LINES


def columns(path: Path) -> list[str]:
    """Returns the columns of a table, or the names of all fields in a JSON Lines file.

    Raises:
        InvalidArgument: BAD_FILE if the file cannot be read.
    """
    if is_json_lines(path):
        return list(dict.fromkeys(name for row in read_rows(path) for name in row.values))
    with _reading(path) as file:
        return list(csv.DictReader(file, delimiter=_DELIMITERS[_format(path)], strict=True).fieldnames or ())


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
