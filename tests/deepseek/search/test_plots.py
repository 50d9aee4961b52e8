"""Plots of studies, and the errors of plots that cannot be drawn."""

import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from PIL import Image

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.search import plot_files, plots
from deepseek.search.api import (
    Choices,
    Condition,
    FloatRange,
    IntegerRange,
    Objective,
    OutcomeConstraint,
    ParameterSpec,
    RunningTrial,
    SearchResult,
    Space,
    run_study,
    search,
)
from deepseek.search.plots import Plot, PlotKind, plot_study
from deepseek.search.study_spec import StudySpec
from deepseek.search.trials import Trial, TrialState

matplotlib.use("agg")

HOSTILE = "<b>a$b_^</b>"
SPACE = Space(
    (
        ParameterSpec("rate", FloatRange(1e-4, 1.0, log=True)),
        ParameterSpec("layers", IntegerRange(1, 8)),
        ParameterSpec(HOSTILE, Choices((HOSTILE, "adamw", 3, True))),
        ParameterSpec("momentum", FloatRange(0.0, 0.9), (Condition("layers", at_least=5),)),
    )
)
ONE = StudySpec(SPACE, (Objective("loss"),))
TWO = StudySpec(SPACE, (Objective("loss"), Objective("speed", maximize=True)), (OutcomeConstraint("bytes", 50.0),))
FOUR = StudySpec(SPACE, tuple(Objective(name) for name in "abcd"))


def trial(number: int, metrics: Mapping[str, float], state: TrialState = TrialState.SUCCEEDED) -> Trial:
    parameters: dict[str, Any] = {"rate": 0.5**number, "layers": number % 8 + 1}
    parameters[HOSTILE] = (HOSTILE, "adamw", 3, True)[number % 4]
    if number % 8 + 1 >= 5:
        parameters["momentum"] = 0.1
    return Trial(number, parameters, "c", 0, 1, 2, state, metrics)


def trials(number: int) -> list[Trial]:
    names = ("loss", "speed", "bytes", "a", "b", "c", "d")
    return [trial(i, {name: (i * 7 % 11 + 1.0) * 10**j for j, name in enumerate(names)}) for i in range(1, number + 1)]


def drawn(spec: StudySpec, some: list[Trial], monkeypatch: pytest.MonkeyPatch, **options: Any) -> Plot:
    """What would be drawn."""
    caught: list[Plot] = []
    monkeypatch.setattr(plots, "write_picture", lambda plot, output: caught.append(plot))
    plot_study(spec, some, Path("a.png"), **options)
    return caught[0]


@pytest.mark.parametrize("ending", [".png", ".html"])
@pytest.mark.parametrize(
    ("spec", "kind", "metrics", "expected"),
    [
        (ONE, "", (), "history"),
        (ONE, "parallel", (), "parallel"),
        (ONE, "importance", (), "importance"),
        (TWO, "", (), "pareto"),
        (TWO, "parallel", (), "parallel"),
        (TWO, "history", ("speed",), "history"),
        (FOUR, "pareto", ("d", "a", "b"), "pareto"),
    ],
)
def test_every_kind_is_drawn_into_pictures_and_pages(
    spec: StudySpec, kind: str, metrics: tuple[str, ...], expected: str, ending: str, tmp_path: Path
) -> None:
    output = tmp_path / f"plot{ending}"
    assert plot_study(spec, trials(12), output, kind=kind, metrics=metrics, title=HOSTILE) == expected
    if ending == ".png":
        with Image.open(output) as image:
            assert min(image.size) > 200
            assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 50
    else:
        text = output.read_text(encoding="utf-8")
        assert "Plotly.newPlot" in text
        assert not re.findall(r"<(?:script|link)[^>]*(?:src|href)=", text)  # works without a network
        assert HOSTILE not in text


@pytest.mark.parametrize(("ending", "magic"), [(".svg", b"<?xml"), (".PDF", b"%PDF")])
def test_pictures_may_be_drawn_with_vectors(ending: str, magic: bytes, tmp_path: Path) -> None:
    plot_study(ONE, trials(12), tmp_path / f"plot{ending}", kind="parallel")
    assert (tmp_path / f"plot{ending}").read_bytes().startswith(magic)


def test_trials_keep_their_numbers_and_others_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    some = [
        trial(1, {"loss": 3.0}),
        trial(2, {"loss": 1.0}, TrialState.STOPPED),
        trial(4, {"loss": math.inf}),
        trial(5, {"loss": math.nan}, TrialState.FAILED),
        trial(6, {"loss": 2.0}),
        trial(7, {}, TrialState.ACTIVE),
    ]
    plot = drawn(ONE, some, monkeypatch, title="digits")
    complete = [one for one in plot.study.trials if one.state.name == "COMPLETE"]
    assert [(one.number, one.values) for one in complete] == [(1, [3.0]), (6, [2.0])]
    assert complete[0].params["layers"] == 2
    assert (plot.kind, plot.heading) == (PlotKind.HISTORY, "History of digits")
    assert plot.labels == ["loss (smaller is better)"]


def test_the_front_is_that_of_the_objectives_that_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [(1.0, 5.0, 9.0), (2.0, 9.0, 9.0), (3.0, 8.0, 9.0), (0.5, 9.0, 99.0)]
    some = [
        trial(i, {"loss": loss, "speed": speed, "bytes": size}) for i, (loss, speed, size) in enumerate(values, start=1)
    ]
    plot = drawn(TWO, some, monkeypatch)
    assert plot.front() == ([1.0, 2.0], [5.0, 9.0])  # the last one violates the constraint
    assert plot.holds_to_the_right
    plot = drawn(TWO, some, monkeypatch, metrics=["speed", "loss"])
    assert plot.front() == ([5.0, 9.0], [1.0, 2.0])
    assert not plot.holds_to_the_right


def test_axes_are_logarithmic_if_values_are_positive_and_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    for losses, expected in (((1.0, 50.0), True), ((1.0, 9.0), False), ((0.0, 50.0), False)):
        some = [trial(i, {"loss": loss}) for i, loss in enumerate(losses, start=1)]
        assert drawn(ONE, some, monkeypatch).is_logarithmic(0) == expected


def test_importance_finds_the_parameter_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    def objective(running: RunningTrial) -> float:
        return abs(float(running["x"]) - 3) + 0.001 * float(running["y"])

    for maximize in (False, True):
        result = search(
            objective, {"x": FloatRange(0, 10), "y": FloatRange(0, 10)}, num_trials=40, seed=1, maximize=maximize
        )
        plot = drawn(result.spec, list(result.trials), monkeypatch, kind="importance")
        found = optuna.importance.get_param_importances(plot.study)
        assert found["x"] > 2 * found["y"]


def test_a_search_draws_its_result(tmp_path: Path) -> None:
    result: SearchResult = search(lambda running: float(running["x"]), {"x": FloatRange(0, 1)}, num_trials=3, seed=1)
    result.plot(tmp_path / "history.png")
    result.plot(str(tmp_path / "parallel.png"), kind="parallel", title="lines")
    assert {path.name for path in tmp_path.iterdir()} == {"history.png", "parallel.png"}
    two = run_study(lambda running: {"loss": 1.0, "speed": 2.0, "bytes": 99.0}, replaced(TWO, 2))
    two.plot(tmp_path / "nothing_is_feasible.png")
    two.plot(tmp_path / "nothing_is_feasible.html")


def replaced(spec: StudySpec, max_trials: int) -> StudySpec:
    return StudySpec(spec.space, spec.objectives, spec.outcome_constraints, seed=1, max_trials=max_trials)


@pytest.mark.parametrize(
    ("spec", "options", "field", "message"),
    [
        (ONE, {"kind": "pie"}, "kind", "unknown kind of plot 'pie'; known: pareto, parallel, importance, history"),
        (ONE, {"kind": "pareto"}, "kind", "at least two objectives, and there is one: loss; draw the history"),
        (FOUR, {}, "metrics", "two or three objectives; choose some of: a, b, c, d"),
        (TWO, {"kind": "history"}, "metrics", "choose one of: loss, speed"),
        (TWO, {"kind": "importance"}, "metrics", "choose one of: loss, speed"),
        (ONE, {"metrics": ["accuracy"]}, "metrics", "'accuracy' is not an objective of the study; known: loss"),
    ],
)
def test_what_cannot_be_drawn_is_refused(spec: StudySpec, options: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(message)) as caught:
        plot_study(spec, trials(12), Path("plot.png"), **options)
    assert caught.value.field == field


def test_an_unknown_ending_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"plot.gif does not end with one of .png, .svg, .pdf, .html") as caught:
        plot_study(ONE, trials(12), Path("plot.gif"))
    assert caught.value.field == "output"


@pytest.mark.parametrize(("kind", "least"), [("history", 1), ("parallel", 2), ("importance", 10)])
def test_too_few_trials_are_counted(kind: str, least: int, tmp_path: Path) -> None:
    some = [*trials(least - 1), trial(least, {}, TrialState.FAILED)]
    with pytest.raises(FailedPrecondition, match=f"requires {least} trials .* there are {least - 1}, and 1 ") as caught:
        plot_study(ONE, some, tmp_path / "plot.png", kind=kind)
    assert caught.value.reason == "TOO_FEW_TRIALS"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("missing", "output", "install"),
    [
        ("plotly", "plot.html", "pip install 'deepseek-mesh[search]'"),
        ("optuna", "plot.html", "pip install 'deepseek-mesh[search]'"),
        ("matplotlib", "plot.png", "pip install 'deepseek-mesh[search]' matplotlib"),
    ],
)
def test_a_missing_package_is_named(missing: str, output: str, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(FailedPrecondition, match=re.escape(install)) as caught:
        plot_study(ONE, trials(12), Path(output))
    assert caught.value.reason == "PLOTTING_MISSING"
    assert missing in caught.value.message


def test_the_style_of_the_program_is_kept(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    plot_study(ONE, trials(12), tmp_path / "plot.png")
    assert dict(matplotlib.rcParams) == before
    from matplotlib import pyplot

    assert not pyplot.get_fignums()


def test_a_picture_of_many_parameters_is_small_enough_to_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"p{number}" for number in range(1000)]
    spec = StudySpec(Space(tuple(ParameterSpec(name, FloatRange(0.0, 1.0)) for name in names)), (Objective("loss"),))
    some = [
        Trial(number, dict.fromkeys(names, 0.5), "c", 0, 1, 2, TrialState.SUCCEEDED, {"loss": number})
        for number in range(1, 11)
    ]
    for kind in ("parallel", "importance"):
        width, height = plot_files.size_inches(drawn(spec, some, monkeypatch, kind=kind))
        assert max(width, height) * plot_files.DOTS_PER_INCH < 65_536  # matplotlib draws no larger pictures
