"""Tables of the demo, of training and int8 on processors, and of the mesh's services."""

from benchmarks.figure_tables.table import Figure, FigureTable

TABLES = {
    "demo": FigureTable(
        "processors",
        "runs",
        (
            Figure("Test questions answered correctly, worst run", "test_accuracy", "%", 100, 2),
            Figure("Training time, median", "train_s", "s", 1, 1),
            Figure("Time of the whole demo, median", "total_s", "s", 1, 1),
        ),
    ),
    "demo_bf16": FigureTable(
        "demo",
        "runs",
        (
            Figure("Training time", "train_s", "s", 1, 1),
            Figure("Time of the whole demo", "total_s", "s", 1, 1),
        ),
    ),
    "precision": FigureTable(
        "processors",
        "runs",
        (
            Figure("Step time with `auto` / with the best fixed format, worst network", "auto_vs_best", "", 1, 3),
            Figure("Training time before", "train_s_before", "s", 1, 1),
            Figure("Time of the whole demo before", "total_s_before", "s", 1, 1),
            Figure(
                "Training time now / before",
                "train_ratio_to_before",
                "",
                1,
                2,
                interval="train_ratio_to_before_interval",
            ),
            Figure(
                "Time of one epoch now / before",
                "epoch_ratio_to_before",
                "",
                1,
                2,
                interval="epoch_ratio_to_before_interval",
            ),
            Figure("Epochs now", "epochs"),
            Figure("Epochs before", "epochs_before"),
            Figure(
                "Time of two runs submitted together / one after the other",
                "two_runs_vs_sequential",
                "",
                1,
                3,
                interval="two_runs_vs_sequential_interval",
            ),
        ),
        spread="range of runs",
    ),
    "int8": FigureTable(
        "processors",
        "runs",
        (
            Figure("Loads of versions with a file that saturates, with AVX-512 and AVX2", "files_loaded"),
            Figure("Loads after which a file with wrong answers was served", "wrong_files_served"),
        ),
    ),
    "startup": FigureTable(
        "startup",
        "rounds",
        (
            Figure("`deepseek up` until all services are ready", "up_s", "s", 1, 2),
            Figure("`deepseek up` now / before", "up_ratio", "", 1, 2, interval="up_ratio_interval"),
            Figure("`--help` of the registry", "help_s", "s", 1, 2),
            Figure("`--help` now / before", "help_ratio", "", 1, 2, interval="help_ratio_interval"),
        ),
    ),
    "mesh": FigureTable(
        "mesh",
        "rounds",
        (
            Figure(
                "Median time of a call / of the same call to a bare grpcio server",
                "interceptor_overhead_ratio",
                "",
                1,
                2,
                interval="interceptor_overhead_interval",
            ),
            Figure("Concurrent clients under load", "concurrent_clients"),
            Figure("Duration of the load", "load_s", "s"),
            Figure("Errors under load", "errors"),
            Figure("Memory growth of the server after 10 s of warm-up", "memory_growth", "%", 100, 1),
        ),
    ),
    "faults": FigureTable(
        "faults",
        "trials",
        (
            Figure("Acknowledged writes", "acknowledged_writes"),
            Figure("Acknowledged writes that were lost", "lost_writes"),
            Figure("Artifacts that were torn", "torn_reads"),
            Figure("Effects that happened twice", "double_writers"),
            Figure("Jobs that were unfinished or had another result", "unfinished_jobs"),
            Figure("Restarts of services", "restarts"),
            Figure("Time until ready, 95th percentile", "p95_restart_s", "s", 1, 2, interval="p95_restart_s_interval"),
            Figure("Time until ready, maximum", "max_restart_s", "s", 1, 2),
        ),
    ),
}
