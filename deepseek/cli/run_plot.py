"""The picture of `deepseek run plot`: the curves of one or several runs, one panel per figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import FailedPrecondition, InvalidArgument, NotFound
from deepseek.cli.run_figures import label, state
from protos.trainer.v1 import trainer_pb2

FORMATS = (".png", ".svg", ".pdf")

Events = Sequence[trainer_pb2.RunEvent]


def check_drawable(path: Path) -> None:
    """Checks that a picture can be drawn, before any run is read.

    Raises:
        InvalidArgument: BAD_VALUE if the file name has no known ending.
        FailedPrecondition: MATPLOTLIB_MISSING.
    """
    if path.suffix.lower() not in FORMATS:
        message = f"{path} does not end with one of {', '.join(FORMATS)}"
        raise InvalidArgument("BAD_VALUE", message, field="--out")
    check_matplotlib()


def check_matplotlib() -> None:
    """Checks that pictures can be drawn.

    Raises:
        FailedPrecondition: MATPLOTLIB_MISSING.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        message = "drawing requires matplotlib; install it with: pip install matplotlib"
        raise FailedPrecondition("MATPLOTLIB_MISSING", message) from error


def figures_of(runs: Sequence[tuple[trainer_pb2.Run, Events]]) -> list[str]:
    """Returns the names of the figures that the histories of the runs contain, in the order of their appearance."""
    names: dict[str, None] = {}
    for _, events in runs:
        for event in events:
            for metric in (*event.step.metrics, *event.evaluation.metrics):
                names.setdefault(metric.name)
    return list(names)


def draw(runs: Sequence[tuple[trainer_pb2.Run, Events]], names: Sequence[str], path: Path) -> None:
    """Draws one panel per figure. Thin lines are training figures, dots are evaluations, and a star is the best epoch.

    Args:
        runs: Runs with their histories.
        names: Names of the figures.
        path: File to write.

    Raises:
        NotFound: NO_FIGURES if the runs have no figures, or none of them has one of the given figures.
    """
    from matplotlib.figure import Figure

    known = figures_of(runs)
    if not known:
        which = ", ".join(f"{run.name} is {state(run)}" for run, _ in runs)
        message = f"no figures yet: {which}; name a run that has figures: deepseek run plot RUN --out {path}"
        message = message if runs else "there are no runs; start one with `deepseek train`"
        raise NotFound("NO_FIGURES", message, field="RUN")
    missing = [name for name in names if name not in known]
    if missing:
        message = f"no run has logged {', '.join(map(repr, missing))}; known: {', '.join(known)}"
        raise NotFound("NO_FIGURES", message, field="--metric")
    figure = Figure(figsize=(8, 1.2 + 2.8 * len(names)), dpi=120, layout="constrained")
    panels = list(figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0])
    for panel, name in zip(panels, names, strict=True):
        for i, (run, events) in enumerate(runs):
            _draw_run(panel, run, events, name, f"C{i % 10}")
        panel.set_ylabel(_plain(name))
        panel.grid(alpha=0.3)
        panel.margins(x=0.02)
    panels[-1].set_xlabel("step")
    handles, labels = _legend(panels)
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False)
    figure.savefig(path)


def _draw_run(panel: Any, run: trainer_pb2.Run, events: Events, name: str, colour: str) -> None:
    steps, evaluations = _curve(events, "step", name), _curve(events, "evaluation", name)
    thin = {"linewidth": 1.0, "alpha": 0.6} if evaluations else {"linewidth": 1.6}
    if steps:
        panel.plot(*_axes(steps), color=colour, label=f"{_plain(label(run))}, training", **thin)
    if evaluations:
        panel.plot(
            *_axes(evaluations), color=colour, marker=".", linewidth=1.6, label=f"{_plain(label(run))}, evaluation"
        )
    if run.best_step in evaluations:
        best = {run.best_step: evaluations[run.best_step]}
        panel.plot(*_axes(best), color=colour, marker="*", markersize=13, markeredgecolor="black", linestyle="none")


def _curve(events: Events, kind: str, name: str) -> dict[int, float]:
    """Returns the values of a figure by step. After a restart, the repeated steps replace the earlier ones."""
    curve: dict[int, float] = {}
    for event in events:
        if event.HasField("attempt"):
            curve = {step: value for step, value in curve.items() if step <= event.attempt.start_step}
        elif event.WhichOneof("kind") == kind:
            part = getattr(event, kind)
            for metric in part.metrics:
                if metric.name == name:
                    curve[part.step] = metric.value
    return dict(sorted(curve.items()))


def _plain(text: str) -> str:
    """Escapes a text for matplotlib, which reads `$…$` as a formula and hides labels that begin with `_`."""
    escaped = text.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def _axes(curve: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(curve), list(curve.values())


def _legend(panels: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """Returns every label once, whichever panel it appears in."""
    entries: dict[str, Any] = {}
    for panel in panels:
        for handle, text in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(text, handle)
    return list(entries.values()), list(entries)
