"""Table of what an architecture search finds."""

from benchmarks.figure_tables.table import Figure, FigureTable


def _figures(prefix: str, data: str) -> tuple[Figure, ...]:
    def points(label: str, key: str) -> Figure:
        return Figure(f"{data}: {label}", f"{prefix}{key}", "points", 1, 2, f"{prefix}{key}_interval")

    return (
        Figure(f"{data}: fewer parameters than the baseline", f"{prefix}params_reduction_percent", "%", 1, 1),
        points("gain in accuracy over the baseline", "accuracy_gain_points"),
        points("gain over a residual network scaled to as many parameters", "vs_width_scaled_points"),
        points("gain over the result of a random search", "vs_random_points"),
        points("gain over the network with the most parameters", "vs_most_parameters_points"),
        points("gain over the network with the most operations", "vs_most_macs_points"),
        Figure(f"{data}: latency in ONNX Runtime / that of the baseline", f"{prefix}latency_ratio", decimals=2),
        Figure(f"{data}: duration of the search", f"{prefix}minutes", "min", 1, 1),
    )


TABLES = {
    "nas": FigureTable(
        "nas",
        "paired trainings",
        (*_figures("", "Fashion-MNIST"), *_figures("mnist_", "MNIST")),
    ),
}
