"""Shows the events of `fit`: as a progress bar on a terminal, otherwise as an occasional line of text."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console

from deepseek.progress import LINE_INTERVAL_S, bar, is_watched, say
from deepseek.training.events import EvaluationEvent, Event, StepEvent, WarningEvent


class ProgressBar:
    """Shows events as they arrive.

    On a terminal, it draws a progress bar. Otherwise, it prints lines to standard error: at most one every ten seconds,
    and a last one at the end of training.

    Args:
        console: Console to draw on; by default standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._console = console
        self._bar = bar(console, remaining=False) if is_watched(console) else None
        self._task = self._bar.add_task("training", total=None, note="") if self._bar else None
        self._unsaid = ""
        self._said_at = time.monotonic()

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif self._unsaid:
            say(self._unsaid)

    def __call__(self, event: Event) -> None:
        """Shows an event."""
        match event:
            case StepEvent():
                note = f"{_figures(event.metrics)}  {event.eta_s:.0f} s left  {event.samples_per_second:.0f} samples/s"
                if self._bar and self._task is not None:
                    description = f"epoch {event.epoch}"
                    self._bar.update(
                        self._task, description=description, completed=event.step, total=event.num_steps, note=note
                    )
                self._say(f"epoch {event.epoch}, step {event.step} of {event.num_steps}: {note}")
            case EvaluationEvent():
                text = f"epoch {event.epoch}: {_figures(event.metrics)}"
                if self._bar:
                    self._bar.console.print(text)
                self._say(text)
            case WarningEvent():
                self._console.print(f"warning: {event.message}", markup=False, highlight=False, soft_wrap=True)

    def _say(self, line: str) -> None:
        self._unsaid = line
        if self._bar is None and time.monotonic() - self._said_at >= LINE_INTERVAL_S:
            say(line)
            self._unsaid, self._said_at = "", time.monotonic()


def _figures(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
