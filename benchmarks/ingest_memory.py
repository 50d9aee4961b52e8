"""Memory of an import and of a reader of very many samples, for `benchmarks.ingest`."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.ingest_data import SEED
from deepseek.data.loader import Loader
from deepseek.interchange.importing import Import
from deepseek.interchange.opening import open_source
from tests.harness.mesh import embedded_mesh

WARM_UP = 0.2
"""Share of the samples after which memory should no longer grow."""
_BATCH_SIZE = 500


class Peak:
    """Growth of the memory of some processes, after a warm-up.

    Only anonymous memory is counted. Pages of files, such as those of mapped shards, can be dropped at any time.

    Args:
        num_samples: Number of samples that will be processed.
        pids: Ids of the processes.
    """

    def __init__(self, num_samples: int, pids: list[int]) -> None:
        self._num_samples = num_samples
        self._before = dict.fromkeys(pids, 0)
        self.growth = 0

    def note(self, num_done: int) -> None:
        """Measures the memory.

        Args:
            num_done: Number of samples that were processed so far.
        """
        for pid, before in self._before.items():
            used = anonymous_bytes(pid)
            if num_done <= WARM_UP * self._num_samples:
                self._before[pid] = max(before, used)
            else:
                self.growth = max(self.growth, used - before)


def anonymous_bytes(pid: int) -> int:
    """Returns the anonymous memory of a process in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def memory_growth(folder: Path, num_samples: int) -> dict[str, float]:
    """Imports and reads a synthetic table, and returns how much the memory of each part grows after the warm-up.

    The import keeps invalid samples aside, as `deepseek dataset import` does; the table has none.

    Args:
        folder: New folder.
        num_samples: Number of rows.

    Returns:
        The growth in MiB of the importing client together with the ingest service, and of a reader.
    """
    table = folder / "table.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["n", "x", "text"])
        rows.writerows([n, n * SEED % 1009 / 8, f"synthetic sample {n * SEED % 99991}"] for n in range(num_samples))
    with embedded_mesh(folder / "home") as embedded, embedded.connect() as mesh:
        imports = Peak(num_samples, [os.getpid(), embedded.file.services["ingest"].pid])
        found = Import(open_source(str(table)))
        found.upload(mesh.datasets, "table", on_sample=_sometimes(imports.note))
        dataset = mesh.dataset("table", cache=folder / "cache")
        dataset.download()
        reading, num_read = Peak(num_samples, [os.getpid()]), 0
        for batch in Loader(dataset, _BATCH_SIZE, seed=SEED, num_threads=2):
            num_read += len(batch["n"])
            if num_read % (20 * _BATCH_SIZE) == 0:
                reading.note(num_read)
        if num_read != num_samples:
            raise RuntimeError(f"{num_read} of {num_samples} samples were read")
    return {"import_mib": imports.growth / 2**20, "read_mib": reading.growth / 2**20}


def _sometimes(note: Callable[[int], None]) -> Callable[[int], None]:
    return lambda number: note(number) if number % 10_000 == 0 else None
