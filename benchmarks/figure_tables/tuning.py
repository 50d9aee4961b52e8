"""Tables of the tuner's speed and quality, and of steering."""

from benchmarks.figure_tables.table import Figure, FigureTable


def _measured(label: str, key: str, unit: str = "", scale: float = 1, decimals: int = 2) -> Figure:
    """A row whose interval has the key of the value and `_interval`."""
    return Figure(label, key, unit, scale, decimals, f"{key}_interval")


def _quality(name: str, problem: str) -> tuple[Figure, ...]:
    return (
        _measured(f"{problem}: trials to the best of 100 random trials", f"default_{name}_trials", decimals=1),
        _measured(f"{problem}: those trials / trials of a random search", f"default_{name}_vs_random"),
    )


TABLES = {
    "tuner": FigureTable(
        "tuner",
        "searches",
        (
            _measured("Trial with three measurements / Optuna in memory", "latency_vs_memory"),
            _measured("That / Optuna with its SQLite storage", "latency_vs_sqlite"),
            _measured("Trial with combined calls / Optuna in memory", "latency_combined_vs_memory"),
            _measured("That / Optuna with its SQLite storage", "latency_combined_vs_sqlite"),
            Figure("Trial with three measurements", "mesh_ms", "ms", decimals=1),
            Figure("Trial with combined calls", "combined_ms", "ms", decimals=1),
            *_quality("branin", "Branin"),
            *_quality("hartmann6", "Hartmann6"),
            *_quality("tabular", "288 trained networks"),
            _measured("Epochs with ASHA / epochs of 100 complete trials", "asha_epoch_fraction", "%", 100, 1),
            Figure("Failed calls of 16 parallel workers", "parallel_errors"),
        ),
    ),
    "tuner_faults": FigureTable(
        "tuner_faults",
        "kills",
        (
            Figure("Acknowledged trials and measurements that were lost", "lost"),
            Figure("Suggestions that were given twice", "given_twice"),
        ),
    ),
    "steering": FigureTable(
        "steering",
        "seeds",
        (
            Figure("Directive to applied, less one step, 99th percentile", "p99_ms_over_step", "ms", decimals=1),
            Figure("The same, median", "median_ms_over_step", "ms", decimals=1),
            _measured("Duration that steering adds to a run", "overhead_percent", "%"),
            Figure("Share of the duration that is spent in steering's code", "overhead_hooks_percent", "%", decimals=2),
            Figure("Default policy, largest distance from the best", "worst_gap_points", "points", decimals=2),
            Figure("The same, upper 95 % bound", "worst_gap_points_upper", "points", decimals=2),
        ),
    ),
}
