"""Plots the result of an architecture search: accuracy against what a network costs, as a picture or a page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from deepseek.nas.search import Evaluated, Outcome
from deepseek.search.pareto import pareto_front
from deepseek.search.plot_files import is_wide
from deepseek.search.plots import PAGES, check_output

_ACCURACY = "accuracy on validation data"
_EVALUATED, _FRONT, _FINALISTS = "short training", "best of them", "finalist, after its last training"
_COLOURS = {_EVALUATED: "#9aa5b1", _FRONT: "#1f77b4", _FINALISTS: "#d62728"}


@dataclass(frozen=True)
class _Panel:
    """Points of one panel: cost, accuracy and description.

    Attributes:
        label: Name of the cost.
        points: Points by name of their series.
        is_logarithmic: Whether the axis of the cost is logarithmic.
    """

    label: str
    points: dict[str, list[tuple[float, float, str]]]
    is_logarithmic: bool


def plot_outcome(outcome: Outcome[Any], output: Path, *, title: str = "") -> None:
    """Draws all networks of a search: one panel for the parameters, and one for the latency.

    The second panel shows the operations if no latency was measured. Networks after their short training are compared
    with each other; a line joins the best of them. Finalists were trained for longer.

    Args:
        outcome: Result of the search.
        output: File to write: a picture (.png, .svg or .pdf) or a page (.html).
        title: Title, e.g. the name of the data set.

    Raises:
        MeshError: Any error of `deepseek.search.plots.check_output`.
        OSError: The file cannot be written.
    """
    check_output(output)
    costs: list[tuple[str, Callable[[Evaluated[Any]], float]]] = [("parameters", lambda one: one.cost.parameters)]
    latencies = {one.spec: one.latency for one in outcome.evaluated if one.latency is not None}
    if len(latencies) == len(outcome.evaluated):
        costs.append(("latency, relative to that of a random network", lambda one: latencies[one.spec]))
    else:
        costs.append(("operations (multiply-accumulate)", lambda one: one.cost.macs))
    panels = [_panel(label, cost, outcome) for label, cost in costs]
    heading = f"Architecture search{f' for {title}' if title else ''}: {len(outcome.evaluated)} networks"
    (_write_page if output.suffix.lower() in PAGES else _write_picture)(panels, heading, output)


def _panel(label: str, cost: Callable[[Evaluated[Any]], float], outcome: Outcome[Any]) -> _Panel:
    evaluated = [(float(cost(one)), one.accuracy, _text(one)) for one in outcome.evaluated]
    finalists = [Evaluated(one.spec, one.cost, one.accuracy) for one in outcome.finalists]
    front = sorted(evaluated[i] for i in pareto_front([(x, -y) for x, y, _ in evaluated]))
    points = {
        _EVALUATED: evaluated,
        _FRONT: front,
        _FINALISTS: [(float(cost(one)), one.accuracy, _text(one)) for one in finalists],
    }
    return _Panel(label, points, is_wide([x for x, _, _ in evaluated]))


def _text(one: Evaluated[Any]) -> str:
    return f"{one.cost.parameters:,} parameters, {one.cost.macs:,} operations"


def _write_picture(panels: Sequence[_Panel], heading: str, output: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.8), dpi=120, layout="constrained")
    figure.suptitle(heading.replace("$", r"\$"), x=0.01, ha="left")
    places = list(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0])
    styles: dict[str, dict[str, Any]] = {
        _EVALUATED: {"marker": ".", "linestyle": "none", "markersize": 9},
        _FRONT: {"marker": ".", "drawstyle": "steps-post", "markersize": 9, "linewidth": 1.2},
        _FINALISTS: {"marker": "*", "linestyle": "none", "markersize": 13},
    }
    for place, panel in zip(places, panels, strict=True):
        for name, points in panel.points.items():
            x, y, _ = zip(*points, strict=True)
            place.plot(x, y, color=_COLOURS[name], label=name, **styles[name])
        place.set_xscale("log" if panel.is_logarithmic else "linear")
        place.set_xlabel(panel.label)
        place.grid(alpha=0.3, which="both")
    places[0].set_ylabel(_ACCURACY)
    handles, labels = places[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(output)


def _write_page(panels: Sequence[_Panel], heading: str, output: Path) -> None:
    from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly has no type hints

    figure = make_subplots(1, len(panels), shared_yaxes=True, horizontal_spacing=0.03)
    styles: dict[str, dict[str, Any]] = {
        _EVALUATED: {"mode": "markers"},
        _FRONT: {"mode": "lines+markers", "line": {"shape": "hv"}},
        _FINALISTS: {"mode": "markers", "marker": {"symbol": "star", "size": 13}},
    }
    for column, panel in enumerate(panels, start=1):
        for name, points in panel.points.items():
            x, y, texts = zip(*points, strict=True)
            figure.add_scatter(
                x=x,
                y=y,
                text=texts,
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                row=1,
                col=column,
                **styles[name],
            )
            figure.data[-1].marker.color = _COLOURS[name]
        figure.update_xaxes(title=panel.label, type="log" if panel.is_logarithmic else "linear", row=1, col=column)
    figure.update_yaxes(title=_ACCURACY, row=1, col=1)
    figure.update_layout(title=escape(heading), template="plotly_white", legend={"orientation": "h", "y": -0.15})
    figure.write_html(output, include_plotlyjs=True, full_html=True)
