"""The plot of an architecture search."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from common.errors import InvalidArgument
from deepseek.nas import plots
from deepseek.nas.plots import plot_outcome
from deepseek.nas.search import Evaluated, Finalist, Outcome
from deepseek.nas.space import Cost
from tests.deepseek.nas.networks import conv_spec

NETWORKS = [
    Evaluated(conv_spec({"width": width}), Cost(parameters, 10 * parameters), accuracy, latency)
    for width, parameters, accuracy, latency in ((4, 100, 0.5, 1.0), (8, 200, 0.4, 0.5), (12, 5000, 0.9, 3.0))
]
OUTCOME = Outcome((Finalist(NETWORKS[2].spec, NETWORKS[2].cost, 0.95),), (), 5, tuple(NETWORKS))
WITHOUT_LATENCY = replace(OUTCOME, evaluated=tuple(replace(one, latency=None) for one in NETWORKS))


@pytest.mark.parametrize("outcome", [OUTCOME, WITHOUT_LATENCY, replace(OUTCOME, evaluated=(NETWORKS[2],))])
def test_a_search_is_drawn_as_a_picture_and_a_page(outcome: Outcome[object], tmp_path: Path) -> None:
    plot_outcome(outcome, tmp_path / "search.png", title="<b>$colours_^</b>")
    with Image.open(tmp_path / "search.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 50
    plot_outcome(outcome, tmp_path / "search.html", title="<b>$colours_^</b>")
    text = (tmp_path / "search.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link)[^>]*(?:src|href)=", text)
    assert "<b>$colours" not in text
    assert ("latency" in text.rpartition("newPlot")[2]) == (outcome is not WITHOUT_LATENCY)


def test_the_panels_show_all_networks_the_front_and_the_finalists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[plots._Panel] = []
    monkeypatch.setattr(plots, "_write_picture", lambda panels, heading, output: drawn.extend(panels))
    plot_outcome(OUTCOME, tmp_path / "search.png")
    parameters, latency = drawn
    points = {name: [(x, y) for x, y, _ in some] for name, some in parameters.points.items()}
    assert list(points.values()) == [[(100, 0.5), (200, 0.4), (5000, 0.9)], [(100, 0.5), (5000, 0.9)], [(5000, 0.95)]]
    assert parameters.is_logarithmic
    points = {name: [(x, y) for x, y, _ in some] for name, some in latency.points.items()}
    assert list(points.values())[1:] == [[(0.5, 0.4), (1.0, 0.5), (3.0, 0.9)], [(3.0, 0.95)]]
    assert not latency.is_logarithmic


def test_an_unknown_ending_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="does not end with one of"):
        plot_outcome(OUTCOME, Path("search.gif"))
