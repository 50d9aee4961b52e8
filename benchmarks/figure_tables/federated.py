"""Tables of the speed of federated rounds, and of runs whose processes were killed."""

from benchmarks.figure_tables.table import Figure, FigureTable


def _ratio(label: str, key: str) -> Figure:
    return Figure(label, key, "x", decimals=2, interval=f"{key}_interval")


TABLES = {
    "federated": FigureTable(
        "federated",
        "blocks; those that only train, and those without preload, in every second block",
        (
            _ratio("Rounds/s / plain Flower", "rounds_vs_flower"),
            _ratio("Rounds/s / plain Flower with `--isolation process`", "rounds_vs_process_isolation"),
            _ratio("Rounds/s / plain Flower that only trains", "rounds_vs_flower_train_only"),
            _ratio("Rounds/s / `--isolation process` that only trains", "rounds_vs_process_isolation_train_only"),
            _ratio("Rounds/s without preload / plain Flower", "rounds_without_preload_vs_flower"),
            _ratio("Rounds/s without preload / `--isolation process`", "rounds_without_preload_vs_process_isolation"),
            Figure("A round of four nodes", "mesh_round_s", "s", decimals=2),
            Figure("The first round of four nodes", "mesh_first_s", "s", decimals=2),
            Figure("Loading data, per message after the first round", "mesh_load_s", "ms", 1000, 1),
            Figure("Loading data of plain Flower, per message after the first round", "flower_load_s", "ms", 1000, 1),
            Figure("Loading data of a node until the end of the first round", "mesh_first_load_s", "s", decimals=2),
        ),
    ),
    "federated_faults": FigureTable(
        "federated_faults",
        "trials",
        (
            Figure("Runs in which a process was killed", "kills"),
            Figure("Trials whose runs finished", "finished"),
            Figure("Runs that sample nodes and finished", "sampled_finished"),
            Figure("Trials with the model of an undisturbed run", "bit_equal"),
            Figure("Rounds lost by one kill, at most", "rounds_lost_max"),
            Figure("Private runs after which the ledger showed too small an epsilon", "epsilon_undercounted"),
        ),
    ),
}
