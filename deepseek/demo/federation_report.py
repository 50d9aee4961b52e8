"""The plot of the federated demo: accuracy and epsilon by round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from protos.federated.v1 import federated_pb2

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = "Each round with privacy adds noise of the same scale: it can lose more to noise than it gains from training."


def accuracy(one: federated_pb2.Round) -> float:
    """Returns a round's accuracy on the reference data, as a fraction."""
    return next(metric.value for metric in one.metrics if metric.name == "accuracy")


def write_rounds(
    path: Path,
    start: float,
    plain: Sequence[federated_pb2.Round],
    private: Sequence[federated_pb2.Round],
    budget: float,
) -> None:
    """Writes the picture of `draw_rounds`, a PNG file."""
    draw_rounds(start, plain, private, budget).savefig(path)


def draw_rounds(
    start: float, plain: Sequence[federated_pb2.Round], private: Sequence[federated_pb2.Round], budget: float
) -> Figure:
    """Draws the accuracy of both runs, and below it the epsilon that the private run has spent.

    Args:
        start: Accuracy of the model that both runs start from, as a fraction.
        plain: Released rounds of the run without privacy.
        private: Released rounds of the run with privacy.
        budget: Epsilon of the budget.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), dpi=120, layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    for rounds, colour, label in ((plain, "tab:blue", "without privacy"), (private, "tab:orange", "with privacy")):
        numbers, shares = [0, *(one.round for one in rounds)], [start, *map(accuracy, rounds)]
        above.plot(numbers, shares, color=colour, marker="o", label=label)
    above.plot(0, start, color="black", marker="o", linestyle="", label="model at the start", zorder=3)
    above.set(
        ylabel="accuracy on the\ncoordinator's test images", ylim=(0, 1.02), title="Federated rounds of four nodes"
    )
    above.legend(loc="lower right", frameon=False)
    numbers, spent = [0, *(one.round for one in private)], [0.0, *(one.epsilon_spent for one in private)]
    below.step(numbers, spent, where="post", color="tab:orange", marker="o")
    below.axhline(budget, color="tab:red", linestyle="--")
    below.annotate("budget", (0, budget), xytext=(2, -12), textcoords="offset points", color="tab:red")
    below.set(xlabel="round", ylabel="epsilon spent\nper image", ylim=(0, 1.1 * budget))
    figure.supxlabel(CAPTION, fontsize="small", x=0.01, horizontalalignment="left")
    return figure
