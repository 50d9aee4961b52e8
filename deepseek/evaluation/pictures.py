"""Pictures of evaluations, drawn with matplotlib: confusion matrices, predicted numbers, and losses of texts."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from deepseek.client.names import short_name
from deepseek.evaluation.results import Comparison, Evaluation

MAX_CLASSES = 50
"""Maximum number of labels in a confusion matrix. If there are more, those with the most mistakes are shown."""

_MAX_LABEL_CHARACTERS = 24
_MAX_COUNTED = 30
_CHARACTER_IN = 0.085
_DPI = 150
_LAYOUT: Final = "compressed"
"""The layout "constrained" ignores that the cells are squares, and cuts off the title of the left axis."""
_BLUE, _GREY, _RED = "#08519c", "#666666", "#b3261e"


def evaluation_figure(one: Evaluation) -> Figure:
    """Returns the picture of an evaluation."""
    size = _size(one)
    figure = Figure(figsize=size, dpi=_DPI, layout=_LAYOUT)
    _draw(figure, figure.subplots(), one)
    figure.suptitle(_title(one), fontsize=11, fontweight="bold")
    return figure


def comparison_figure(comparison: Comparison) -> Figure:
    """Returns the pictures of both versions, side by side."""
    width, height = _size(comparison.first)
    figure = Figure(figsize=(2 * width, height + 0.3), dpi=_DPI, layout=_LAYOUT)
    axes = figure.subplots(1, 2)
    shown = _shown_labels(comparison.first, comparison.second)
    limits = _limits(comparison.first, comparison.second)
    for name, axis, one in zip("AB", axes, (comparison.first, comparison.second), strict=True):
        _draw(figure, axis, one, shown=shown, limits=limits)
        metric = comparison.metric
        axis.set_title(f"{name}: {short_name(one.version)}, {metric} {_figure(metric, one.metrics[metric])}")
    figure.suptitle(_verdict(comparison), fontsize=11, fontweight="bold")
    return figure


def _title(one: Evaluation) -> str:
    metric = next(iter(one.metrics))
    where = f"{short_name(one.version)} on {short_name(one.dataset_version)}, {one.split}"
    return f"{where}: {metric} {_figure(metric, one.metrics[metric])}, n = {one.num_rows:,}"


def _verdict(comparison: Comparison) -> str:
    where = (
        f"{short_name(comparison.first.dataset_version)}, {comparison.first.split}, n = {comparison.first.num_rows:,}"
    )
    low, high = comparison.interval
    scale, unit = (100, " points") if comparison.metric == "accuracy" else (1, "")
    change = f"{comparison.difference * scale:+.3g}{unit} [{low * scale:+.3g}, {high * scale:+.3g}]"
    p = "" if comparison.p_value is None else f", p = {comparison.p_value:.2g}"
    return f"{where}: {comparison.metric} of B − A = {change.replace('-', '−')}{p}"


def _figure(metric: str, value: float) -> str:
    return f"{value:.2%}" if metric == "accuracy" else f"{value:.4g}"


def _size(one: Evaluation) -> tuple[float, float]:
    if one.task != "classification":
        return 6.4, 5.6
    side = min(MAX_CLASSES, len(one.labels))
    cells, names = side * _cell(side), _CHARACTER_IN * max(map(len, map(_cut, one.labels)))
    return max(5.0, cells + names + 2.0), max(4.4, cells + names + 1.4)


def _cell(side: int) -> float:
    """Returns the size of a cell of a confusion matrix, in inches."""
    return 0.55 if side <= 12 else 0.42 if side <= _MAX_COUNTED else 0.26


def _draw(
    figure: Figure,
    axis: Any,
    one: Evaluation,
    *,
    shown: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
) -> None:
    if one.task == "classification":
        _draw_confusion(figure, axis, one, shown if shown is not None else _shown_labels(one))
    elif one.task == "regression":
        _draw_numbers(axis, one, limits or _limits(one))
    else:
        _draw_losses(axis, one, limits or _limits(one))


def _draw_confusion(figure: Figure, axis: Any, one: Evaluation, shown: Sequence[str]) -> None:
    """Draws counts in cells whose colour is the share of the row, so that rare labels are as visible as common ones."""
    assert one.confusion is not None
    places = [one.labels.index(label) for label in shown]
    counts = one.confusion[np.ix_(places, places)]
    support = one.confusion.sum(1)[places]
    shares = counts / np.maximum(1, support)[:, np.newaxis]
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    font = 9.0 if len(shown) <= 12 else 7.0 if len(shown) <= _MAX_COUNTED else 5.5
    for i, j in zip(*counts.nonzero(), strict=True):
        colour = "white" if shares[i, j] > 0.5 else _BLUE if i == j else _RED
        axis.text(j, i, _count(counts[i, j]), ha="center", va="center", color=colour, fontsize=font)
    font = 9 if len(shown) <= 20 else 7 if len(shown) <= _MAX_COUNTED else 6
    labels = [_plain(_cut(label)) for label in shown]
    is_long = max(map(len, labels)) * _CHARACTER_IN > max(_cell(len(shown)), 3 / len(shown))
    axis.set_xticks(range(len(shown)), labels, fontsize=font, rotation=90 if is_long else 0)
    axis.set_yticks(range(len(shown)), labels, fontsize=font)
    axis.set_xticks(np.arange(len(shown) + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(shown) + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="#dddddd", linewidth=0.5)
    axis.tick_params(which="both", length=0)
    rest = len(one.labels) - len(shown)
    axis.set_xlabel("predicted" + (f" (the {len(shown)} of {len(one.labels)} labels with most mistakes)" * (rest > 0)))
    axis.set_ylabel("true")
    bar = figure.colorbar(
        picture, ax=axis, fraction=0.04, pad=0.02, aspect=30, shrink=0.88, format=lambda share, _: f"{share:.0%}"
    )
    bar.set_label("share of the true label")
    bar.outline.set_visible(False)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _draw_numbers(axis: Any, one: Evaluation, limits: tuple[float, float]) -> None:
    targets, predicted = np.array(one.outcomes.targets), np.array(one.outcomes.predicted)
    axis.plot(limits, limits, color=_GREY, linewidth=1, linestyle="--", label="exact")
    size = 14 if len(targets) <= 2000 else 4
    axis.scatter(targets, predicted, s=size, alpha=0.5, color=_BLUE, edgecolors="none", label="prediction")
    worst = one.worst[:5]
    at = [row.target for row in worst], [row.predicted for row in worst]
    axis.scatter(*at, s=36, facecolors="none", edgecolors=_RED, label="largest errors")
    axis.set(xlabel=f"true {_plain(one.target)}", ylabel=f"predicted {_plain(one.target)}", xlim=limits, ylim=limits)
    axis.set_aspect("equal")
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left", frameon=False, fontsize=9)


def _draw_losses(axis: Any, one: Evaluation, limits: tuple[float, float]) -> None:
    losses = one.outcomes.losses
    axis.hist(losses, bins=np.linspace(*limits, 41), color=_BLUE, alpha=0.8)
    axis.axvline(one.metrics["loss"], color=_RED, linewidth=1.5, label=f"mean {one.metrics['loss']:.3f}")
    axis.set(xlabel="loss of a text, in nats per token", ylabel="texts", xlim=limits)
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)


def _shown_labels(*evaluations: Evaluation) -> Sequence[str]:
    """Returns the labels that a matrix shows: all, or those that occur in the most mistakes, in their usual order."""
    labels = evaluations[0].labels
    known = [one for one in labels if all(one in other.labels for other in evaluations)]
    if len(known) <= MAX_CLASSES:
        return known
    mistakes = dict.fromkeys(known, 0)
    for one in evaluations:
        assert one.confusion is not None
        wrong = one.confusion.sum(0) + one.confusion.sum(1) - 2 * one.confusion.diagonal()
        for label, number in zip(one.labels, wrong, strict=True):
            if label in mistakes:
                mistakes[label] += int(number)
    chosen = set(sorted(known, key=lambda label: -mistakes[label])[:MAX_CLASSES])
    return [label for label in known if label in chosen]


def _limits(*evaluations: Evaluation) -> tuple[float, float]:
    """Returns the range of an axis that shows all values of the evaluations."""
    if evaluations[0].task == "regression":
        values = np.concatenate([[*one.outcomes.targets, *one.outcomes.predicted] for one in evaluations])
    elif evaluations[0].task == "language-model":
        values = np.concatenate([one.outcomes.losses for one in evaluations])
    else:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _count(number: int) -> str:
    return str(number) if number < 10_000 else f"{number / 1000:.0f}k"


def _cut(label: str) -> str:
    return label if len(label) <= _MAX_LABEL_CHARACTERS else label[: _MAX_LABEL_CHARACTERS - 1] + "…"


def _plain(text: str) -> str:
    """Escapes a text for matplotlib, which reads `$…$` as a formula."""
    return text.replace("$", r"\$")
