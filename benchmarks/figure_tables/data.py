"""Tables of importing, reading and resuming."""

from benchmarks.figure_tables.table import Figure, FigureTable


def _ratio(label: str, key: str) -> Figure:
    return Figure(label, key, "", 1, 2, interval=f"{key}_interval")


TABLES = {
    "ingest": FigureTable(
        "ingest",
        "rounds",
        (
            Figure("Pictures", "images"),
            _ratio("Pictures read per second, `Loader` / litdata", "vs_litdata"),
            _ratio("Pictures read per second, `Loader` / webdataset", "vs_webdataset"),
            _ratio("Pictures read per second, in a random order / in the stored order", "shuffled_ratio"),
            _ratio("Pictures imported per second / decoded per second", "write_vs_decode"),
            _ratio("Pictures imported per second / written by litdata", "write_vs_litdata"),
            Figure("Growth of memory with a million samples", "memory_growth_mib", "MiB", 1, 1),
        ),
    ),
    "resume": FigureTable(
        "resume",
        "trials",
        (
            Figure("Times that all readers were killed", "kills"),
            Figure("Samples that were acknowledged", "acknowledged"),
            Figure("Samples that were lost", "lost"),
            Figure("Samples that were repeated", "repeated"),
            Figure("Upper bound of the share of wrong trials (95 %)", "wrong_trials_share_below", "%", 100, 2),
        ),
    ),
}
