"""A progress bar for a training loop that somebody watches on a terminal."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from deepseek.training.events import EvaluationEvent, Event, StepEvent


class ProgressBar:
    """Shows events as they come, on standard error; shows nothing where that is not a terminal.

    Args:
        console: Where to draw; by default standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("training", total=None, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Shows an event."""
        match event:
            case StepEvent():
                speed = f"{event.samples_per_second:.0f} samples/s  {event.eta_s:.0f} s left"
                self._progress.update(
                    self._task,
                    description=f"epoch {event.epoch}",
                    completed=event.step,
                    total=event.num_steps,
                    figures=f"{_figures(event.metrics)}  {speed}",
                )
            case EvaluationEvent() if not self._progress.disable:
                self._progress.console.print(f"epoch {event.epoch}: {_figures(event.metrics)}")


def _figures(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
