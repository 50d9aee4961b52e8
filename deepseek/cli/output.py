"""Output of commands: tables for people, one line of JSON for programs, and errors on standard error."""

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.progress import Progress
from rich.segment import Segments
from rich.table import Table
from rich.text import Text

from common.errors import FailedPrecondition, MeshError
from deepseek.cli.interrupts import check_interrupted
from deepseek.progress import Lines, bar, is_watched
from deepseek.terminal import visible


class _Console(Console):
    """Prints strings as they are, because they may come from outside: nothing in them styles or controls the terminal.

    For a part of a line in another style, see `bold`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)

    def print(self, *objects: Any, **settings: Any) -> None:
        safe = (visible(str(one), has_lines=True) if isinstance(one, str | PurePath) else one for one in objects)
        super().print(*safe, **settings)


# Soft wrapping leaves line breaks to the terminal, so names that are longer than a line can be copied. Progress bars,
# on standard error, do not work with it.
console = _Console(soft_wrap=True)
error_console = _Console(stderr=True)
_UNLIMITED = 100_000
_METHOD = re.compile(r"/[\w.]+/\w+")
"""Full name of a gRPC method."""
_NOT_IN_JSON = re.compile("[\x7f-\x9f\ud800-\udfff]")
"""Characters that `json.dumps` keeps, but that control a terminal or cannot be printed."""


def _keep_pure(as_json: bool) -> bool:
    """If a command's output is JSON, sends all other output of the command to standard error."""
    console.stderr = as_json
    return as_json


AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document, and nothing else, to standard output.", callback=_keep_pure),
]


def begin_step(name: str) -> None:
    """Prints the heading of a step of a long command, unless the command was interrupted.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    check_interrupted()
    console.rule(name, align="left")


def print_json(document: Any) -> None:
    """Prints a document on one line of standard output. Control characters in it are escaped."""
    text = json.dumps(document, ensure_ascii=False)
    print(_NOT_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)


def as_json_value(value: Any) -> Any:
    """Returns an array, or an element of one, as a JSON value. Bytes are read as text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [as_json_value(one) for one in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def size_text(num_bytes: float) -> str:
    """Returns a number of bytes with a unit, e.g. `4.2 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def bold(text: str) -> Text:
    """Returns a text in bold, as a part of a line."""
    return Text(visible(text), style="bold")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, none: str = "") -> None:
    """Prints a table with a heading for each column; if there are no rows, prints the text `none` instead.

    No word is cut, so that users can copy every name: in a narrow terminal, the table is wider than the terminal. The
    first column is not wrapped either. Characters of a cell that control the terminal are escaped.
    """
    cells = [[cell if isinstance(cell, Text) else Text(visible(str(cell))) for cell in row] for row in rows]
    if none and not cells:
        console.print(none, highlight=False)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, heading in enumerate(map(visible, columns)):
        words = [word for text in (heading, *(row[index].plain for row in cells)) for word in text.split()]
        table.add_column(heading, no_wrap=index == 0, min_width=max(map(cell_len, words), default=None))
    for row in cells:
        table.add_row(*row)
    least = Measurement.get(console, console.options.update(width=_UNLIMITED), table).minimum
    lines = console.render(table, console.options.update(width=max(console.width, least)))
    console.print(Segments(lines), soft_wrap=True, end="")


def print_error(error: MeshError | str) -> None:
    """Prints an error to standard error. A MeshError is shown with its code, reason and fields."""
    if isinstance(error, str):
        error_console.print(error, style="bold red", soft_wrap=True)
        return
    # A server names the method that it was asked to execute, which the user of a command has not typed.
    message = _METHOD.sub("this command", error.message) if error.reason == "ROLE_MISSING" else error.message
    error_console.print(f"error: {message}", style="bold red", soft_wrap=True)
    error_console.print(f"  {error.code}: {error.reason}")
    for violation in error.violations:
        # The first violation usually repeats the message.
        problem = "" if violation.description == error.message else f": {violation.description}"
        error_console.print(f"  field: {violation.field}{problem}", soft_wrap=True)


@contextmanager
def writing(path: Path, option: str) -> Iterator[None]:
    """Re-raises an OSError from the `with` block as a FailedPrecondition.

    Args:
        path: File or folder to which the `with` block writes.
        option: Command-line option that sets this path.

    Raises:
        FailedPrecondition: OUTPUT_NOT_WRITABLE.
    """
    try:
        yield
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}; choose another path with {option}"
        raise FailedPrecondition("OUTPUT_NOT_WRITABLE", message, field=option) from error


def make_folder(folder: Path, option: str) -> None:
    """Creates a folder if it is missing, and checks that it is writable. A command calls this before its actual work.

    Raises:
        FailedPrecondition: OUTPUT_NOT_WRITABLE.
    """
    with writing(folder, option):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def progress_bar() -> Progress:
    """Returns a progress bar for standard error.

    On a terminal, the bar disappears at the end. If standard error is not a terminal, plain lines are printed instead.
    """
    return bar(error_console, transient=True) if is_watched(error_console) else Lines()
