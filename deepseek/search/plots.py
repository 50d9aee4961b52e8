"""Plots of studies: the Pareto front, parallel coordinates, the importance of parameters, and the history.

Optuna draws them, from a study of its own that is rebuilt from our records: with matplotlib into pictures, and with
plotly into pages that work without a network. Trials keep their numbers. Nothing is imported before it is needed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.search.plot_files import TITLES, Plot, PlotKind, write_page, write_picture
from deepseek.search.study_spec import Objective, StudySpec
from deepseek.search.trials import Trial, TrialState

if TYPE_CHECKING:
    import optuna

PICTURES = (".png", ".svg", ".pdf")
PAGES = (".html",)
MAX_PARETO_AXES = 3


# PED-ANOVA compares the best tenth of the trials with all of them.
_LEAST_TRIALS = {PlotKind.PARETO: 1, PlotKind.PARALLEL: 2, PlotKind.IMPORTANCE: 10, PlotKind.HISTORY: 1}


def plot_study(
    spec: StudySpec,
    trials: Sequence[Trial],
    output: Path,
    *,
    kind: str = "",
    metrics: Sequence[str] = (),
    title: str = "",
) -> PlotKind:
    """Draws a plot of a study. Trials that did not succeed, or have an infinite value, are left out.

    Args:
        spec: Spec of the study.
        trials: Its trials, by number.
        output: File to write: a picture (.png, .svg or .pdf) or a page (.html).
        kind: `pareto`, `parallel`, `importance` or `history`; by default `history` if one objective is drawn, else
            `pareto`.
        metrics: Objectives that are drawn; by default all of them.
        title: Title, without the kind.

    Returns:
        The kind that was drawn.

    Raises:
        InvalidArgument: BAD_VALUE at `output`, `kind` or `metrics`.
        FailedPrecondition: PLOTTING_MISSING if a package is missing; TOO_FEW_TRIALS.
        OSError: The file cannot be written.
    """
    objectives = chosen_objectives(spec, metrics)
    made = checked_kind(kind, objectives)
    check_output(output)
    if output.suffix.lower() in PAGES:
        write_page(_plot(spec, objectives, trials, made, title, escape), output)
    else:
        write_picture(_plot(spec, objectives, trials, made, title, _plain), output)
    return made


def check_output(output: Path, field: str = "output") -> None:
    """Checks that a file can be drawn, as far as it is known before there is something to draw.

    Args:
        output: The file.
        field: Field or option that sets it, for errors.

    Raises:
        InvalidArgument: BAD_VALUE if the name of the file has no known ending.
        FailedPrecondition: PLOTTING_MISSING.
    """
    ending = output.suffix.lower()
    if ending not in PICTURES + PAGES:
        message = f"{output} does not end with one of {', '.join(PICTURES + PAGES)}"
        raise InvalidArgument("BAD_VALUE", message, field=field)
    try:
        for package in ("optuna", "plotly" if ending in PAGES else "matplotlib"):
            import_module(package)
    except ImportError as error:
        extra = "'deepseek-mesh[search]'" if ending in PAGES else "'deepseek-mesh[search]' matplotlib"
        message = f"a plot in a file {ending} requires {error.name}; install it with: pip install {extra}"
        raise FailedPrecondition("PLOTTING_MISSING", message) from error


def chosen_objectives(spec: StudySpec, metrics: Sequence[str]) -> tuple[Objective, ...]:
    """Returns the objectives that are drawn.

    Raises:
        InvalidArgument: BAD_VALUE at `metrics`.
    """
    known = {one.metric: one for one in spec.objectives}
    for metric in metrics:
        if metric not in known:
            message = f"{metric!r} is not an objective of the study; known: {', '.join(known)}"
            raise InvalidArgument("BAD_VALUE", message, field="metrics")
    return tuple(known[metric] for metric in dict.fromkeys(metrics)) or spec.objectives


def checked_kind(kind: str, objectives: Sequence[Objective]) -> PlotKind:
    """Returns the kind of plot that is drawn of some objectives.

    Raises:
        InvalidArgument: BAD_VALUE at `kind` or `metrics`.
    """
    if kind and kind not in list(PlotKind):
        message = f"unknown kind of plot {kind!r}; known: {', '.join(PlotKind)}"
        raise InvalidArgument("BAD_VALUE", message, field="kind")
    made = PlotKind(kind) if kind else PlotKind.PARETO if len(objectives) > 1 else PlotKind.HISTORY
    names = ", ".join(one.metric for one in objectives)
    if made == PlotKind.PARETO and len(objectives) == 1:
        message = f"a Pareto front needs at least two objectives, and there is one: {names}; draw the history instead"
        raise InvalidArgument("BAD_VALUE", message, field="kind")
    if made == PlotKind.PARETO and len(objectives) > MAX_PARETO_AXES:
        message = f"a Pareto front is drawn of two or three objectives; choose some of: {names}"
        raise InvalidArgument("BAD_VALUE", message, field="metrics")
    if made in (PlotKind.IMPORTANCE, PlotKind.HISTORY) and len(objectives) > 1:
        message = f"{TITLES[made].lower()} is drawn of one objective; choose one of: {names}"
        raise InvalidArgument("BAD_VALUE", message, field="metrics")
    return made


def _plot(
    spec: StudySpec,
    objectives: Sequence[Objective],
    trials: Sequence[Trial],
    kind: PlotKind,
    title: str,
    text: Callable[[str], str],
) -> Plot:
    drawn = {trial.number: values for trial in trials if (values := _values(trial, objectives)) is not None}
    if len(drawn) < _LEAST_TRIALS[kind]:
        message = (
            f"{TITLES[kind].lower()} requires {_LEAST_TRIALS[kind]} trials with finite objectives; there are "
            f"{len(drawn)}, and {len(trials) - len(drawn)} trials without"
        )
        raise FailedPrecondition("TOO_FEW_TRIALS", message)
    labels = [f"{text(one.metric)} ({'larger' if one.maximize else 'smaller'} is better)" for one in objectives]
    return Plot(kind, text(title), _rebuilt(spec, objectives, trials, drawn, text), labels)


def _values(trial: Trial, objectives: Sequence[Objective]) -> list[float] | None:
    """Returns the values of a trial; None if it is not drawn."""
    if trial.state != TrialState.SUCCEEDED:
        return None
    values = [trial.metrics[one.metric] for one in objectives]
    return values if all(map(math.isfinite, values)) else None


def _rebuilt(
    spec: StudySpec,
    objectives: Sequence[Objective],
    trials: Sequence[Trial],
    drawn: Mapping[int, list[float]],
    text: Callable[[str], str],
) -> "optuna.Study":
    """Returns Optuna's study with the trials that are drawn, under the same numbers."""
    import optuna

    from deepseek.search.engine import distribution, ignore_warnings
    from deepseek.search.space import Choices, Domain, Value

    def shown(value: Any) -> Any:
        return text(value) if isinstance(value, str) else value

    def shown_domain(domain: Domain) -> Domain:
        return Choices(tuple(map(shown, domain.choices))) if isinstance(domain, Choices) else domain

    def shown_parameters(parameters: Mapping[str, Value]) -> dict[str, Any]:
        return {text(name): shown(value) for name, value in parameters.items()}

    ignore_warnings()
    domains = {text(one.name): distribution(shown_domain(one.domain)) for one in spec.space.parameters}
    known = optuna.study.StudyDirection
    directions = [known.MAXIMIZE if one.maximize else known.MINIMIZE for one in objectives]
    study = optuna.create_study(directions=directions, sampler=optuna.samplers.RandomSampler())
    study.set_metric_names([text(one.metric) for one in objectives])
    by_number = {trial.number: trial for trial in trials}
    for number in range(max(by_number) + 1):  # Optuna counts from 0, and knows no gaps
        if number not in drawn:
            study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
            continue
        trial = by_number[number]
        parameters = shown_parameters(trial.parameters)
        study.add_trial(
            optuna.trial.create_trial(
                values=drawn[number],
                params=parameters,
                distributions={name: domains[name] for name in parameters},
                constraints={
                    one.metric: one.excess(trial.metrics.get(one.metric, math.nan)) for one in spec.outcome_constraints
                },
            )
        )
    return study


def _plain(text: str) -> str:
    """Escapes a text for matplotlib, which reads `$…$` as a formula."""
    return text.replace("$", r"\$")
