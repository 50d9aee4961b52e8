"""Draws plots of studies into files, with Optuna's drawing functions and readable labels and axes."""

import enum
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

_WIDE = 30.0
"""Ratio of the largest to the smallest value above which an axis is logarithmic."""
DOTS_PER_INCH = 120
_MAX_INCHES = 400.0
"""Greatest width or height of a picture; matplotlib draws less than 65,536 pixels."""


class PlotKind(enum.StrEnum):
    """Kinds of plots."""

    PARETO = "pareto"
    PARALLEL = "parallel"
    IMPORTANCE = "importance"
    HISTORY = "history"


TITLES = {
    PlotKind.PARETO: "Pareto front",
    PlotKind.PARALLEL: "Parallel coordinates",
    PlotKind.IMPORTANCE: "Importance of the parameters",
    PlotKind.HISTORY: "History",
}


@dataclass(frozen=True)
class Plot:
    """What is drawn.

    Attributes:
        kind: Kind of the plot.
        title: Title, without the kind.
        study: Optuna's study.
        labels: Name of each objective with its direction.
    """

    kind: PlotKind
    title: str
    study: "optuna.Study"
    labels: list[str]

    @property
    def heading(self) -> str:
        """Title with the kind."""
        return f"{TITLES[self.kind]} of {self.title}" if self.title else TITLES[self.kind]

    @property
    def points(self) -> list[tuple[float, ...]]:
        """Values of the objectives of all trials that are drawn."""
        return [tuple(trial.values) for trial in self.study.get_trials(deepcopy=False) if trial.values]

    def front(self) -> tuple[list[float], list[float]]:
        """Values of the first two objectives of the best trials, in ascending order of the first one."""
        points = sorted((trial.values[0], trial.values[1]) for trial in self.study.best_trials)
        return [x for x, _ in points], [y for _, y in points]

    @property
    def holds_to_the_right(self) -> bool:
        """Whether a trial is as good as any that is to the right of it, up to the next one on the front."""
        return self.study.directions[0].name == "MINIMIZE"

    def is_logarithmic(self, objective: int) -> bool:
        """Returns whether the axis of an objective should be logarithmic: its values are positive and far apart."""
        return is_wide([point[objective] for point in self.points])


def is_wide(values: Sequence[float]) -> bool:
    """Returns whether values are positive and far apart, so that a logarithmic axis shows them best."""
    return min(values) > 0 and max(values) / min(values) >= _WIDE


def write_picture(plot: Plot, output: Path) -> None:
    """Draws a plot into a picture."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator
    from optuna.visualization import matplotlib as pictures

    axes: Any  # two- or three-dimensional
    with plt.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this part of Optuna is experimental
        if plot.kind == PlotKind.PARETO:
            axes = pictures.plot_pareto_front(plot.study, target_names=plot.labels)
        elif plot.kind == PlotKind.PARALLEL:
            axes = _parallel(pictures, plot)
        elif plot.kind == PlotKind.IMPORTANCE:
            axes = pictures.plot_param_importances(plot.study)
        else:
            axes = pictures.plot_optimization_history(plot.study, target_name=plot.labels[0])
        figure = axes.figure
        axes.set_title("")
        axes.set_title(plot.heading, loc="left", y=1.09)
        above = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "frameon": False, "ncols": 3}
        if plot.kind == PlotKind.HISTORY:
            axes.set(xlabel="trial", yscale="log" if plot.is_logarithmic(0) else "linear")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            trials, infeasible = axes.collections
            trials.set_label("trial")
            if len(infeasible.get_offsets()):
                infeasible.set_label("trial that violates a constraint")
            axes.lines[0].set(label="best trial so far", drawstyle="steps-post")
            axes.legend(**above)
        elif plot.kind == PlotKind.IMPORTANCE:
            axes.set(xlabel="importance; all together 1", ylabel="parameter")
            axes.legend(**above)
        elif plot.kind == PlotKind.PARETO and len(plot.labels) == 2:
            step = "steps-post" if plot.holds_to_the_right else "steps-pre"
            axes.plot(*plot.front(), color="tab:red", linewidth=1, drawstyle=step)
            axes.set_xscale("log" if plot.is_logarithmic(0) else "linear")
            axes.set_yscale("log" if plot.is_logarithmic(1) else "linear")
            axes.legend(**above)
        elif plot.kind == PlotKind.PARETO:
            for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
                axis.labelpad = 18
            axes.set_box_aspect(None, zoom=0.85)
        figure.set_size_inches(*size_inches(plot))
        figure.savefig(output, dpi=DOTS_PER_INCH, bbox_inches="tight")
        plt.close(figure)


def write_page(plot: Plot, output: Path) -> None:
    """Draws a plot into a page that works without a network."""
    from optuna import visualization as pages

    if plot.kind == PlotKind.PARETO:
        figure = pages.plot_pareto_front(plot.study, target_names=plot.labels)
        if len(plot.labels) == 2:
            x, y = plot.front()
            line = {"color": "firebrick", "width": 1, "shape": "hv" if plot.holds_to_the_right else "vh"}
            figure.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)
            figure.update_xaxes(type="log" if plot.is_logarithmic(0) else "linear")
            figure.update_yaxes(type="log" if plot.is_logarithmic(1) else "linear")
    elif plot.kind == PlotKind.PARALLEL:
        figure = _parallel(pages, plot)
    elif plot.kind == PlotKind.IMPORTANCE:
        figure = pages.plot_param_importances(plot.study)
        figure.update_layout(xaxis_title="importance; all together 1", yaxis_title="parameter")
    else:
        figure = pages.plot_optimization_history(plot.study, target_name=plot.labels[0])
        figure.update_layout(xaxis_title="trial", yaxis_type="log" if plot.is_logarithmic(0) else "linear")
        figure.data[0].name, figure.data[1].name = "trial", "best trial so far"
        figure.data[1].line.shape = "hv"
    figure.update_layout(title_text=plot.heading)
    figure.write_html(output, include_plotlyjs=True, full_html=True)


def _parallel(drawer: Any, plot: Plot) -> Any:
    """Draws parallel coordinates; several objectives are coloured by their rank."""
    if len(plot.labels) > 1:
        return drawer.plot_parallel_coordinate(plot.study)
    return drawer.plot_parallel_coordinate(plot.study, target_name=(plot.study.metric_names or plot.labels)[0])


def size_inches(plot: Plot) -> tuple[float, float]:
    """Returns width and height of a picture in inches."""
    num_parameters = len({name for trial in plot.study.trials for name in trial.params})
    if plot.kind == PlotKind.PARALLEL:
        return min(_MAX_INCHES, max(8.0, 1.5 * (num_parameters + len(plot.labels)))), 5.0
    if plot.kind == PlotKind.IMPORTANCE:
        return 8.0, min(_MAX_INCHES, max(3.0, 0.45 * num_parameters + 1.5))
    return (8.0, 7.0) if len(plot.labels) > 2 else (8.0, 5.0)
