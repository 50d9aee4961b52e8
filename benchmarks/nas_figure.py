"""Draws the result of the benchmark of architecture search: accuracy on test images against parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_NAMES = {
    "searched": "searched network",
    "baseline": "residual network (baseline)",
    "width_scaled": "residual network, scaled width",
    "random": "random search",
    "most_parameters": "most parameters of the pool",
    "most_macs": "most operations of the pool",
}
_DATA = {"fashion": "Fashion-MNIST", "mnist": "MNIST"}


def write_figure(path: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Draws one panel per data set. A dot is a final training, and a diamond the mean over the seeds.

    Args:
        path: File to write.
        found: Figures by name of the data set.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(found), 4.6), dpi=120, layout="constrained")
    panels = list(figure.subplots(1, len(found), squeeze=False)[0])
    for panel, (data, result) in zip(panels, found.items(), strict=True):
        for number, (name, label) in enumerate(_NAMES.items()):
            network = result["each"][name]
            percent = 100 * np.array(network["test_accuracy_by_seed"])
            thousands = network["parameters"] / 1000
            panel.plot([thousands] * len(percent), percent, ".", color=f"C{number}", alpha=0.5)
            marker = {"marker": "D", "markersize": 8, "markeredgecolor": "black", "linestyle": "none"}
            panel.plot(thousands, percent.mean(), color=f"C{number}", label=label, **marker)
        panel.set(title=_DATA[data], xlabel="parameters in thousands", ylabel="accuracy on test images in %")
        panel.grid(alpha=0.3)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=1 + len(found), frameon=False
    )
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)
