"""Selects the best epoch of a run, and decides whether the run should end early.

After every epoch, the evaluation's figures are added. All ranks see the same figures, so all come to the same decision.
The state is part of a checkpoint: a resumed run selects the epoch that an uninterrupted run would select.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from common.errors import InvalidArgument
from deepseek.training.metrics import Metric

LOSS = "loss"


@dataclass(frozen=True)
class EarlyStopping:
    """Ends a run whose selected figure no longer improves.

    Attributes:
        patience: Number of consecutive evaluations without improvement after which the run ends; at least 1.
        min_delta: An evaluation is an improvement if its figure is better by more than this than that of the last
            improvement; at least 0. With 0, every new best epoch is an improvement, even if only its loss is lower.
    """

    patience: int
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if self.patience < 1:
            message = f"patience is {self.patience}; it must be at least 1"
            raise InvalidArgument("BAD_VALUE", message, field="early_stopping.patience")
        if not (math.isfinite(self.min_delta) and self.min_delta >= 0):
            message = f"min_delta is {self.min_delta}; it must be finite and at least 0"
            raise InvalidArgument("BAD_VALUE", message, field="early_stopping.min_delta")


@dataclass(frozen=True)
class Epoch:
    """An evaluated epoch: the number of steps and epochs completed, and the figures."""

    step: int
    epoch: int
    metrics: Mapping[str, float]


class Selection:
    """The best epoch so far. NaN is worse than every other figure. If two epochs have equal figures, the one with the
    lower loss is better, because a small evaluation split has few different values of the accuracy.

    >>> selection = Selection("loss", greater_is_better=False, early_stopping=EarlyStopping(patience=2))
    >>> [selection.add(Epoch(10 * n, n, {"loss": loss})) for n, loss in [(1, 0.5), (2, 0.3), (3, 0.4), (4, 0.6)]]
    [True, True, False, False]
    >>> selection.best.epoch, selection.exhausted
    (2, True)

    Args:
        metric: Name of the figure to compare.
        greater_is_better: Whether a higher figure is better.
        early_stopping: When to end the run early; None for never.

    Attributes:
        best: The best epoch; None before the first evaluation whose figure is a number.
    """

    def __init__(self, metric: str, *, greater_is_better: bool, early_stopping: EarlyStopping | None = None) -> None:
        self.best: Epoch | None = None
        self._metric = metric
        self._sign = 1.0 if greater_is_better else -1.0
        self._early_stopping = early_stopping
        self._reference: float | None = None  # the last figure that counted as an improvement for early stopping
        self._num_stale = 0
        self._last_step = -1

    @property
    def exhausted(self) -> bool:
        """Whether the run should end, because its figure has not improved for too long."""
        return self._early_stopping is not None and self._num_stale >= self._early_stopping.patience

    def add(self, epoch: Epoch) -> bool:
        """Adds an evaluated epoch and returns whether it is the best one. Adding the last epoch again has no effect."""
        figure = self._sign * epoch.metrics.get(self._metric, math.nan)
        if epoch.step != self._last_step:
            self._last_step = epoch.step
            min_delta = self._early_stopping.min_delta if self._early_stopping else 0.0
            is_better = self._is_better(figure, epoch.metrics)
            if _is_above(figure, self._reference, min_delta) or (is_better and not min_delta):
                self._reference, self._num_stale = figure, 0
            else:
                self._num_stale += 1
            if is_better:
                self.best = epoch
        return self.best is not None and self.best.step == epoch.step

    def _is_better(self, figure: float, metrics: Mapping[str, float]) -> bool:
        """Whether an epoch is better than the best one so far. If figures are equal, the lower loss is better."""
        if self.best is None:
            return not math.isnan(figure)
        best = self._sign * self.best.metrics[self._metric]
        return figure > best or (figure == best and metrics.get(LOSS, math.nan) < self.best.metrics.get(LOSS, math.nan))

    def state_dict(self) -> dict[str, Any]:
        """Returns the state, in the form that a checkpoint stores."""
        return {
            "metric": self._metric,
            "best": asdict(self.best) if self.best else None,
            "reference": self._reference,
            "num_stale": self._num_stale,
            "last_step": self._last_step,
        }

    def load_state_dict(self, state: object) -> None:
        """Restores a state. Does nothing if the state is that of another figure, or of a release without selection.

        Raises:
            InvalidArgument: BAD_STATE if the state is damaged.
        """
        if state is None or (isinstance(state, Mapping) and state.get("metric") != self._metric):
            return
        try:
            if not isinstance(state, Mapping):
                raise TypeError
            best, reference = state["best"], state["reference"]
            self.best = None if best is None else Epoch(int(best["step"]), int(best["epoch"]), dict(best["metrics"]))
            self._reference = None if reference is None else float(reference)
            self._num_stale, self._last_step = int(state["num_stale"]), int(state["last_step"])
            if self.best is not None and not isinstance(self.best.metrics[self._metric], float):
                raise TypeError
        except (KeyError, TypeError, ValueError) as error:
            message = "the checkpoint's record of the best epoch is damaged"
            raise InvalidArgument("BAD_STATE", message, field="selection") from error


def make_selection(metric: str, metrics: Sequence[Metric], early_stopping: EarlyStopping | None) -> Selection:
    """Creates the selection by a figure: `loss` or the name of one of the metrics.

    Raises:
        InvalidArgument: BAD_VALUE at `select_metric` if there is no such figure.
    """
    greater_is_better = {LOSS: False} | {one.name: one.greater_is_better for one in metrics}
    if metric not in greater_is_better:
        message = f"select_metric is {metric[:80]!r}; the figures of this run are {', '.join(greater_is_better)}"
        raise InvalidArgument("BAD_VALUE", message, field="select_metric")
    return Selection(metric, greater_is_better=greater_is_better[metric], early_stopping=early_stopping)


def _is_above(figure: float, reference: float | None, min_delta: float) -> bool:
    return not math.isnan(figure) and (reference is None or figure > reference + min_delta)
