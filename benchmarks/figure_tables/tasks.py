"""Tables of everyday tasks."""

from benchmarks.figure_tables.table import CaseTable, Figure

TABLES = {
    "tasks": CaseTable(
        "tasks",
        "tasks",
        "task",
        (
            Figure("commands", "commands"),
            Figure("time", "minutes", "min", 1, 1),
            Figure("answers", "n"),
            Figure("right answers", "points", "%", 1, 2),
            Figure("right answers of the baseline", "baseline_points", "%", 1, 2),
            Figure("baseline", "baseline"),
        ),
    ),
}
