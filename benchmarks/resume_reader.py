"""The process of one rank that reads a data set as a training run does, for `benchmarks.resume`.

After each step, the ranks send the ids that they have read to rank 0, which stores them together with the state of its
loader, as a trainer stores a checkpoint, and then lets the others continue. A stored id is acknowledged.
"""

import json
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.report import Record
from deepseek.client import connect
from deepseek.data.loader import Loader

NUM_EPOCHS = 3


def read(
    mesh_file: Path,
    dataset: str,
    cache: Path,
    log: Path,
    checkpoints: Sequence[Record],
    max_steps: int | None,
    options: Mapping[str, Any],
    rank: int,
    others: Sequence[Connection],
) -> None:
    """Reads the rest of all epochs.

    Args:
        mesh_file: Mesh file of the mesh that has the data set.
        dataset: Name of the data set version.
        cache: Folder of the shard cache, which all ranks share.
        log: File to which rank 0 appends checkpoints, one per line.
        checkpoints: Checkpoints that the file contains; reading resumes from the last one.
        max_steps: Number of steps after which the ranks wait to be killed; None: they read to the end.
        options: Arguments of the loader, without the rank.
        rank: Rank of this process.
        others: On rank 0, the connections to the other ranks; on another rank, the connection to rank 0.
    """
    with stderr_of(log).open("ab") as errors:  # libraries report that other ranks were killed
        os.dup2(errors.fileno(), sys.stderr.fileno())
    with connect(mesh_file) as mesh:
        samples = mesh.dataset(dataset, cache=cache)
        loader = Loader(samples, **options, rank=rank)
        if checkpoints:
            loader.load_state(checkpoints[-1]["state"])
        num_steps = 0
        while (epoch := loader.state()["epoch"]) < NUM_EPOCHS:
            batches = iter(loader)
            for _ in range(len(loader)):
                if num_steps == max_steps:
                    _wait_for_the_end_of_the_parent()
                    return
                num_steps += 1
                batch = next(batches, None)  # None in the last step of an epoch, if it has fewer samples than ranks
                ids = [] if batch is None else batch["n"].tolist()
                if rank == 0:
                    ids += [number for other in others for number in other.recv()]
                    _store(log, {"epoch": epoch, "ids": ids, "state": loader.state()})
                    for other in others:
                        other.send(None)
                else:
                    others[0].send(ids)
                    others[0].recv()
            assert next(batches, None) is None, "the loader has more batches than it says"


def _wait_for_the_end_of_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()


def stderr_of(log: Path) -> Path:
    """Returns the file that receives the standard error of all ranks."""
    return log.with_suffix(".stderr")


def _store(log: Path, checkpoint: Mapping[str, Any]) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(checkpoint) + "\n")
        file.flush()
        os.fsync(file.fileno())
