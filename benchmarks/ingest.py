"""Compares import and reading of small pictures with litdata and webdataset, and measures memory.

Each round measures all cases: reading with one and with two readers, in shuffled order; the same with our loader in
stored order; our import into a new mesh; litdata's `optimize`; and decoding alone, in one process per core. The readers
decode with the same function. Each reported ratio is the median of the rounds' ratios, with a bootstrap confidence
interval; of the ratios for one and two readers, the smaller is reported. A full run also imports and reads a million
synthetic samples. `--quick` measures one round with fewer pictures. The peers are in the extra `peers`.
"""

import argparse
import json
import multiprocessing
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.ingest_data import Data, import_files, peer, prepare, write_files, write_litdata
from benchmarks.ingest_memory import memory_growth
from benchmarks.ingest_readers import READERS, rates
from benchmarks.report import Record, Rounds, certify, print_figures, progress_file, provenance
from benchmarks.statistics import median_interval
from common.cores import num_cores
from deepseek.data.media import decode_image
from tests.harness.mesh import embedded_mesh

PEERS = tuple(name for name in READERS if name != "ours")
NUM_IMAGES, QUICK_IMAGES = 6_000, 1_200
NUM_ROUNDS, QUICK_ROUNDS = 8, 1
NUM_FIRST = 100
NUM_SYNTHETIC = 1_000_000

_spawn = multiprocessing.get_context("spawn")


def read_round(data: Data, number: int) -> dict[str, float]:
    """Returns the rates of all readers, which are measured in a new process."""
    found: dict[str, float] = _in_process(rates, data, number)
    return found


def write_round(data: Data) -> dict[str, float]:
    """Returns the rates, in pictures per second, of our import, of litdata's writer, and of decoding alone."""
    with tempfile.TemporaryDirectory(prefix="ingest-") as folder:
        first = Data(Path(folder, "first"), NUM_FIRST)
        write_files(first)
        with embedded_mesh(Path(folder, "home")) as embedded, embedded.connect() as mesh:
            import_files(first, mesh)  # ingest loads its decoders
            import_s = import_files(data, mesh)
        litdata_s = _in_process(write_litdata, data, Path(folder, "litdata"))
    seconds = {"import": import_s, "litdata_writer": litdata_s, "decode": decode_s(data)}
    return {name: data.num_images / value for name, value in seconds.items()}


def decode_s(data: Data) -> float:
    """Returns how many seconds it takes to read and decode all files, in one process per core."""
    cores = num_cores()
    paths = sorted(data.files.rglob("*.jpg"))
    with ProcessPoolExecutor(cores, mp_context=_spawn) as pool:
        list(pool.map(_decode, [paths[:100]] * (2 * cores)))  # starts the processes
        start = time.perf_counter()
        list(pool.map(_decode, [paths[first : first + 100] for first in range(0, len(paths), 100)]))
        return time.perf_counter() - start


def _decode(paths: Sequence[Path]) -> None:
    for path in paths:
        decode_image(path.read_bytes())


def _in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=_spawn) as pool:
        return pool.submit(function, *arguments).result()


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Returns the median ratios of the rounds with their intervals, the median rates, and the growth of memory."""
    reads = [record for record in records if record["part"] == "read"]
    writes = [record for record in records if record["part"] == "write"]
    memory = [record for record in records if record["part"] == "memory"]
    result: dict[str, Any] = {}

    def ratio(name: str, rows: Sequence[Record], ours: str, theirs: str) -> None:
        result[name], result[f"{name}_interval"] = median_interval([row[ours] / row[theirs] for row in rows])

    def smaller(name: str) -> None:
        first = min((f"{name}_1", f"{name}_2"), key=lambda key: float(result[key]))
        result[name], result[f"{name}_interval"] = result[first], result[f"{first}_interval"]

    for num_readers in (1, 2):
        for name in PEERS:
            ratio(f"vs_{name}_{num_readers}", reads, f"ours_{num_readers}", f"{name}_{num_readers}")
        ratio(f"shuffled_ratio_{num_readers}", reads, f"ours_{num_readers}", f"sequential_{num_readers}")
    for name in (*(f"vs_{name}" for name in PEERS), "shuffled_ratio"):
        smaller(name)
    ratio("write_vs_decode", writes, "import", "decode")
    ratio("write_vs_litdata", writes, "import", "litdata_writer")
    for rows in (reads, writes):
        for name in rows[0].keys() - {"part", "round"}:
            result[f"{name}_per_s"] = median_interval([row[name] for row in rows])[0]
    result["memory_growth_mib"] = max(memory[0]["import_mib"], memory[0]["read_mib"]) if memory else None
    result["memory_growth"] = {key: memory[0][key] for key in ("import_mib", "read_mib")} if memory else None
    return result


def main() -> None:
    """Measures missing parts, prints the results, and certifies them if this was a full run on a clean working tree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object (always the last line)")
    parser.add_argument("--quick", action="store_true", help="one round with fewer pictures; certify nothing")
    quick = parser.parse_args().quick
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that meshes are stopped and folders removed
    for name in PEERS:
        peer(name)
    where = provenance()
    file = progress_file("ingest", where, "quick" if quick else "full")
    if quick:
        file.unlink(missing_ok=True)
    rounds = Rounds(file)
    num_rounds = QUICK_ROUNDS if quick else NUM_ROUNDS
    with ExitStack() as owned:
        folder = Path(owned.enter_context(tempfile.TemporaryDirectory(prefix="ingest-")))
        data = Data(folder / "pictures", QUICK_IMAGES if quick else NUM_IMAGES)
        prepare(data)
        for number in range(num_rounds):
            rounds.measure("read", number, lambda number=number: read_round(data, number))
            rounds.measure("write", number, lambda: write_round(data))
        if not quick:
            (folder / "memory").mkdir()
            rounds.measure("memory", 0, lambda: memory_growth(folder / "memory", NUM_SYNTHETIC))
    versions = {name: version(name) for name in PEERS}
    result = {
        "n": num_rounds,
        "quick": quick,
        "images": data.num_images,
        **summary(rounds.records),
        **versions,
        **where,
    }
    print_figures(result)
    file.unlink()
    certify("ingest", result, full=not quick)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
