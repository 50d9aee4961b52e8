"""How long work is shown: a bar where somebody watches a terminal, a line of plain text now and then elsewhere.

Both go to standard error. The bar keeps its count readable at 80 columns: only the note at its end is cut off.
"""

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

LINE_INTERVAL_S = 10.0
"""Seconds between two lines where there is no terminal."""

_WIDE = 110
_NARROW_BAR = 12


def is_watched(console: Console) -> bool:
    """Whether somebody sees a bar move. Colours that are forced on a file do not make it a terminal."""
    return console.file.isatty() and not console.is_dumb_terminal


def bar(console: Console, *, transient: bool = False, remaining: bool = True) -> Progress:
    """A progress bar with description, count, times, and each task's field `note`.

    Args:
        console: Where to draw.
        transient: Whether it vanishes in the end.
        remaining: Whether to estimate the time that is left.
    """
    wide = console.width >= _WIDE
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}"),
        BarColumn(40 if wide else _NARROW_BAR, table_column=_fixed()),
        MofNCompleteColumn(table_column=_fixed()),
    ]
    if wide:
        columns.append(TimeElapsedColumn(table_column=_fixed()))
    if remaining:
        columns.append(TimeRemainingColumn(table_column=_fixed()))
    return Progress(*columns, _Note(), console=console, transient=transient)


class Lines(Progress):
    """Takes a bar's place where nobody watches: prints a task's state every ten seconds, and at the end."""

    def __init__(self) -> None:
        super().__init__(disable=True)
        self._said_at = time.monotonic()
        self._said = ""

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Takes in what has changed."""
        super().update(task_id, **changes)
        if time.monotonic() - self._said_at >= LINE_INTERVAL_S:
            self._say()

    def stop(self) -> None:
        """Prints how far it came, unless that was the last line already."""
        self._say()
        super().stop()

    def _say(self) -> None:
        line = "; ".join(_line(task) for task in self.tasks if task.completed)
        if line and line != self._said:
            say(line)
            self._said, self._said_at = line, time.monotonic()


def say(line: str) -> None:
    """Prints a line on standard error as it is, without colours."""
    print(line, file=sys.stderr, flush=True)


class _Note(ProgressColumn):
    """The task's note, which gives way where there is little room."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["note"], no_wrap=True, overflow="ellipsis")


def _fixed() -> Column:
    return Column(no_wrap=True)


def _line(task: Task) -> str:
    if task.total == 1:
        count = f"{task.completed:.0%}"
    else:
        count = f"{task.completed:.0f}" + (f" of {task.total:.0f}" if task.total else "")
    return "  ".join(filter(None, (f"{task.description} {count}", task.fields["note"])))
