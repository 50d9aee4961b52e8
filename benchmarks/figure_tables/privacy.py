"""Table of privacy accounting and of what privacy costs."""

from benchmarks.figure_tables.table import Figure, FigureTable

TABLES = {
    "privacy": FigureTable(
        "privacy",
        "divisions of the test images",
        (
            Figure("Greatest epsilon / that on a grid ten times finer", "max_over_fine_pld", decimals=6),
            Figure("Greatest difference from exact values of epsilon", "exact_gap", decimals=5),
            Figure("Values of epsilon below an optimistic bound", "below_optimistic"),
            Figure("Values of epsilon below Opacus' lower bound", "below_prv"),
            Figure("MNIST, accuracy without privacy", "nonprivate_accuracy", "%", 100, 2),
            Figure("Accuracy at epsilon 3", "accuracy_eps3", "%", 100, 2),
            Figure("Accuracy of a private run at epsilon 3", "accuracy_eps3_run", "%", 100, 2),
            Figure("Accuracy at epsilon 8", "accuracy_eps8", "%", 100, 2),
            Figure("Loss at epsilon 3, upper 95 % bound", "loss_eps3_upper_points", "points", decimals=2),
            Figure("Loss of a private run, upper 95 % bound", "loss_eps3_run_upper_points", "points", decimals=2),
            Figure("Loss at epsilon 8, upper 95 % bound", "loss_eps8_upper_points", "points", decimals=2),
        ),
    ),
}
