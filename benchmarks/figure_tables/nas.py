"""Table of what an architecture search finds."""

from benchmarks.figure_tables.table import Figure, FigureTable


def _points(label: str, key: str) -> Figure:
    return Figure(label, key, "points", 1, 2, f"{key}_interval")


_FIGURES = (
    Figure("fewer parameters than the baseline", "params_reduction_percent", "%", 1, 1),
    _points("gain in accuracy over the baseline", "accuracy_gain_points"),
    _points("gain over a residual network scaled to as many parameters", "vs_width_scaled_points"),
    _points("gain over the result of a random search", "vs_random_points"),
    _points("gain over the network with the most parameters", "vs_most_parameters_points"),
    _points("gain over the network with the most operations", "vs_most_macs_points"),
    Figure("latency in ONNX Runtime / that of the baseline", "latency_ratio", decimals=2),
    Figure("duration of the search", "minutes", "min", 1, 1),
)
TABLES = {area: FigureTable(area, "paired trainings", _FIGURES) for area in ("nas", "nas_mnist")}
