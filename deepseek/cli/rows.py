"""Rows of CSV, TSV and JSON Lines files, read and written one at a time."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InvalidArgument
from common.files import replacing
from deepseek.cli.output import writing
from deepseek.data.canonical_json import is_unicode
from deepseek.interchange.tables import MAX_ROW_BYTES, Table

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
    if _format(path) in _JSON_LINES:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _object(line, f"{path}:{number}")
        return
    with _table(path) as table:
        for number, text in table:
            cells, problem = table.cells(text), ""
            if not is_unicode(text):
                cells, problem = table.cells(_printable(text)), "is not valid UTF-8; save the file as UTF-8"
            elif len(text) > MAX_ROW_BYTES:
                problem = f"has more than {MAX_ROW_BYTES} characters"
            elif len(cells) != len(table.names):
                problem = f"has {len(cells)} cells; the heading has {len(table.names)} columns"
            error = InvalidArgument("BAD_ROW", f"{path}:{number} {problem}") if problem else None
            yield Row(dict(zip(table.names, cells, strict=False)), error)


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
    with _table(path) as table:
        return table.names


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
def _table(path: Path) -> Iterator[Table]:
    """Opens a table, which is read by the rules of an import."""
    with path.open("rb") as file:
        table = Table(file, path.name.lower())
        if not all(map(is_unicode, table.names)):
            message = f"the heading of {path} is not valid UTF-8; save the file as UTF-8"
            raise InvalidArgument("BAD_FILE", message, field="--file")
        yield table


def _printable(text: str) -> str:
    """Returns a text without the lone surrogates that stand for bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _format(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (*_DELIMITERS, *_JSON_LINES):
        known = ", ".join((*_DELIMITERS, *_JSON_LINES))
        raise InvalidArgument("BAD_FILE", f"{path} is not one of {known}; rename or convert the file", field="--file")
    return suffix


def _object(line: str, where: str) -> Row:
    if not is_unicode(line):
        return Row({}, InvalidArgument("BAD_ROW", f"{where} is not valid UTF-8; save the file as UTF-8"))
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Row({}, InvalidArgument("BAD_ROW", f"{where} is not JSON: {error}"))
    if "\\u" in line and not is_unicode(json.dumps(row, ensure_ascii=False)):
        return Row({}, InvalidArgument("BAD_ROW", f"{where} has a \\u escape that is no character; correct it"))
    return Row(row) if isinstance(row, dict) else Row({}, InvalidArgument("BAD_ROW", f"{where} is not a JSON object"))
