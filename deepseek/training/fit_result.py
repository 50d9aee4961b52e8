"""The result of a call to `MixedPrecisionTrainer.fit`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deepseek.training.events import Event
from deepseek.training.selection import Epoch


@dataclass(frozen=True)
class FitResult:
    """Result of a call to `fit`, identical on all ranks apart from `train_s` and `history`.

    Attributes:
        metrics: Results of the last evaluation; empty without evaluation data.
        best: The best epoch of the run, by the trainer's `select_metric`; None without evaluation data.
        step: Number of steps completed in the whole run, including skipped steps.
        num_skipped_steps: Number of steps skipped in the whole run because a gradient was not finite.
        stopped: Whether the function `stop` ended the call.
        train_s: Duration of the call, in seconds.
        history: All events of the call; empty on ranks other than 0.
    """

    metrics: Mapping[str, float]
    best: Epoch | None
    step: int
    num_skipped_steps: int
    stopped: bool
    train_s: float
    history: Sequence[Event] = field(default=(), repr=False)
