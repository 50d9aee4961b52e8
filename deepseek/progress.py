"""Shows the progress of long work: as a bar on a terminal, otherwise as occasional lines of plain text.

Both are written to standard error. On a terminal with 80 columns, the count stays readable, because only the note at
the end of the bar is shortened.
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

from deepseek.terminal import visible

LINE_INTERVAL_S = 10.0
"""Minimum time between two lines if there is no terminal, in seconds."""

_WIDE = 110
_NARROW_BAR = 12


def is_watched(console: Console) -> bool:
    """Returns whether a moving bar can be shown.

    This requires a real terminal; a file for which colours are forced does not qualify.
    """
    return console.file.isatty() and not console.is_dumb_terminal


def bar(console: Console, *, transient: bool = False, remaining: bool = True) -> Progress:
    """Returns a progress bar with the description, count, times and `note` of each task.

    Args:
        console: Console to draw on.
        transient: Whether to clear the bar at the end.
        remaining: Whether to show an estimate of the remaining time.
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
    """Replaces the bar if there is no terminal: prints the state of the tasks every ten seconds and at the end."""

    def __init__(self) -> None:
        super().__init__(disable=True)
        self._said_at = time.monotonic()
        self._said = ""

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Records a change, and prints the state if the last line was printed at least ten seconds ago."""
        super().update(task_id, **changes)
        if time.monotonic() - self._said_at >= LINE_INTERVAL_S:
            self._say()

    def stop(self) -> None:
        """Prints the final state, unless the last line showed it already."""
        self._say()
        super().stop()

    def _say(self) -> None:
        line = "; ".join(_line(task) for task in self.tasks if task.completed)
        if line and line != self._said:
            say(line)
            self._said, self._said_at = line, time.monotonic()


def say(line: str) -> None:
    """Prints a line to standard error, without colours."""
    print(visible(line), file=sys.stderr, flush=True)


class _Note(ProgressColumn):
    """The task's note, shortened if space is scarce."""

    def render(self, task: Task) -> Text:
        return Text(visible(task.fields["note"]), no_wrap=True, overflow="ellipsis")


def _fixed() -> Column:
    return Column(no_wrap=True)


def _line(task: Task) -> str:
    if task.total == 1:
        count = f"{task.completed:.0%}"
    else:
        count = f"{task.completed:.0f}" + (f" of {task.total:.0f}" if task.total else "")
    return "  ".join(filter(None, (f"{task.description} {count}", task.fields["note"])))
