"""How commands speak: tables for people, one JSON line for programs, errors on standard error."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table
from rich.text import Text

from common.errors import FailedPrecondition, MeshError
from deepseek.progress import Lines, bar, is_watched

console = Console()
error_console = Console(stderr=True)


def _keep_pure(as_json: bool) -> bool:
    """Reserves standard output for JSON; all other output goes to standard error."""
    console.stderr = as_json
    return as_json


AsJson = Annotated[bool, typer.Option("--json", help="Print only JSON to standard output.", callback=_keep_pure)]


def print_json(document: Any) -> None:
    """Prints a document on one line of standard output."""
    print(json.dumps(document, ensure_ascii=False), flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints rows under headings."""
    # In a narrow terminal the other columns wrap; names, which come first, stay whole so that they can be copied.
    first, *others = columns
    table = Table(Column(first, no_wrap=True), *others, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    console.print(table)


def print_error(error: MeshError | str) -> None:
    """Prints an error with its code, reason and fields on standard error."""
    if isinstance(error, str):
        error_console.print(error, style="bold red", markup=False)
        return
    error_console.print(f"error: {error.message}", style="bold red", markup=False, soft_wrap=True)
    error_console.print(f"  {error.code}: {error.reason}", markup=False)
    for violation in error.violations:
        error_console.print(f"  field: {violation.field}", markup=False)


@contextmanager
def writing(path: Path, option: str) -> Iterator[None]:
    """Around the writing of what a command makes.

    Args:
        path: The file or folder that is written.
        option: The command's option that names the place.

    Raises:
        FailedPrecondition: OUTPUT_NOT_WRITABLE.
    """
    try:
        yield
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}; name another place with {option}"
        raise FailedPrecondition("OUTPUT_NOT_WRITABLE", message, field=option) from error


def make_folder(folder: Path, option: str) -> None:
    """Makes a folder if it is missing and sees whether it takes files, before the work whose outcome goes there.

    Raises:
        FailedPrecondition: OUTPUT_NOT_WRITABLE.
    """
    with writing(folder, option):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def progress_bar() -> Progress:
    """A progress bar with count and times on standard error, cleared when done; plain lines without a terminal."""
    return bar(error_console, transient=True) if is_watched(error_console) else Lines()
