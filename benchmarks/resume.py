"""Counts lost and repeated samples when readers are killed and resume with another number of ranks.

In each trial, processes read three epochs of a data set in an embedded mesh, as a training run does: after each step,
rank 0 stores the ids that all ranks have read, together with the state of its loader. At five random moments, all
processes are killed (SIGKILL), and processes of the next world size (1, 2, 3, 1, 2, 3) resume from the last stored
state. Every id must be stored exactly once per epoch. A seed determines the trials. Each result is written to a file,
from which an interrupted benchmark resumes.
"""

import argparse
import io
import json
import multiprocessing
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from benchmarks.report import Record, certify, progress_file, provenance, read_progress
from benchmarks.resume_reader import NUM_EPOCHS, read, stderr_of
from benchmarks.statistics import upper_bound
from deepseek import embedded
from deepseek.client import MeshFile, connect
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample

NUM_TRIALS = 20
SEED = 20261129
WORLD_SIZES = (1, 2, 3, 1, 2, 3)
NUM_SAMPLES = 1009
MAX_STEPS, MAX_DELAY_S, MAX_LATER_STEPS = 8, 0.2, 25
"""Before a kill, up to `MAX_STEPS` steps are stored, and then up to `MAX_DELAY_S` seconds pass.

In these seconds, up to `MAX_LATER_STEPS` steps are stored: otherwise, a fast machine would end before the last kill.
"""

_processes = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Trial:
    """One trial: the data set is read, and the readers are killed several times.

    Attributes:
        number: Number of the trial.
        batch_size: Number of samples per step, summed over all ranks.
        seed: Seed of the order of the samples.
        window: Argument of the loader.
        num_threads: Argument of the loader.
        num_processes: Argument of the loader.
        kills: For each kill, the number of steps before it, and the delay in seconds after the last of these steps.
    """

    number: int
    batch_size: int
    seed: int
    window: int | None
    num_threads: int
    num_processes: int
    kills: tuple[tuple[int, float], ...]


def draw(seed: int, number: int) -> Trial:
    """Returns a trial, which depends on the arguments alone."""
    chance = random.Random(f"{seed}/{number}")
    return Trial(
        number,
        batch_size=chance.randint(8, 16),
        seed=chance.randrange(1 << 32),
        window=chance.choice([None, 1]),
        num_threads=chance.choice([1, 2]),
        num_processes=chance.choice([0, 0, 0, 2]),
        kills=tuple((chance.randint(0, MAX_STEPS), chance.uniform(0, MAX_DELAY_S)) for _ in WORLD_SIZES[1:]),
    )


def samples() -> Iterator[Sample]:
    """Yields the samples of the data set: a number and a small image each."""
    chance = np.random.default_rng(SEED)
    for number in range(NUM_SAMPLES):
        data = io.BytesIO()
        Image.fromarray(chance.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(data, "PNG")
        yield Sample(f"sample-{number}", "train", {"n": number, "image": data.getvalue()})


def run_trial(trial: Trial, mesh_file: Path, dataset: str, folder: Path) -> Record:
    """Runs a trial, and returns what was lost or repeated.

    Args:
        trial: The trial.
        mesh_file: Mesh file of a mesh.
        dataset: Name of the data set version.
        folder: New folder for the trial.
    """
    log = folder / "log.jsonl"
    for world_size, kill in zip(WORLD_SIZES, (*trial.kills, None), strict=True):
        checkpoints = read_progress(log)
        max_steps = None if kill is None else kill[0] + MAX_LATER_STEPS
        ranks = _start(trial, world_size, (mesh_file, dataset, folder / "cache", log, checkpoints, max_steps))
        try:
            if kill is not None:
                _wait_for(log, len(checkpoints) + kill[0], ranks)
                time.sleep(kill[1])
                failed = not all(rank.is_alive() for rank in ranks)
            else:
                for rank in ranks:
                    rank.join()
                failed = any(rank.exitcode for rank in ranks)
            if failed:
                errors = stderr_of(log).read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"trial {trial.number}: the ranks failed: {errors[-2000:]}")
        finally:
            for rank in ranks:
                rank.kill()
            for rank in ranks:
                rank.join()
    return {**asdict(trial), "num_kills": len(trial.kills), **counted(read_progress(log))}


def counted(checkpoints: Sequence[Record]) -> Record:
    """Returns the numbers of ids that were acknowledged, lost and repeated.

    >>> counted([{"epoch": epoch, "ids": range(NUM_SAMPLES)} for epoch in range(NUM_EPOCHS)])["lost"]
    0
    """
    seen: Counter[tuple[int, int]] = Counter()
    for checkpoint in checkpoints:
        seen.update((checkpoint["epoch"], number) for number in checkpoint["ids"])
    due = {(epoch, number) for epoch in range(NUM_EPOCHS) for number in range(NUM_SAMPLES)}
    return {
        "acknowledged": seen.total(),
        "lost": len(due - seen.keys()),
        "repeated": sum(times - (one in due) for one, times in seen.items()),
    }


def _start(trial: Trial, world_size: int, arguments: tuple[Any, ...]) -> list[BaseProcess]:
    options = {name: getattr(trial, name) for name in ("batch_size", "seed", "window", "num_threads", "num_processes")}
    options["world_size"] = world_size
    pipes = [_processes.Pipe() for _ in range(1, world_size)]
    ends = [[ours for ours, _ in pipes], *([theirs] for _, theirs in pipes)]
    ranks: list[BaseProcess] = []
    for rank, others in enumerate(ends):
        ranks.append(_processes.Process(target=read, args=(*arguments, options, rank, others)))
        ranks[-1].start()
    for pipe in pipes:
        for end in pipe:
            end.close()
    return ranks


def _wait_for(log: Path, num_checkpoints: int, ranks: Sequence[BaseProcess]) -> None:
    """Waits until a number of checkpoints is stored, or a rank has ended."""
    while num_checkpoints and all(rank.is_alive() for rank in ranks):
        if log.exists() and log.read_bytes().count(b"\n") >= num_checkpoints:
            return
        time.sleep(0.001)


def run_trials(trials: Sequence[Trial]) -> Iterator[Record]:
    """Starts a mesh, uploads the data set, and yields the result of each trial."""
    _processes.set_forkserver_preload(["benchmarks.resume_reader", "torch.utils.data", "pyarrow.ipc"])
    with tempfile.TemporaryDirectory(prefix="resume-") as folder:
        home = Path(folder, "home")
        mesh_file = home / MeshFile.default_path().name
        mesh = embedded.start_mesh(home, stay=False, free_ports=True)
        try:
            with connect(mesh_file) as client:
                fields = (Field("n", "integer"), Field("image", "image"))
                dataset = client.datasets.upload("numbers", fields, samples()).name
            for trial in trials:
                place = Path(folder, f"trial-{trial.number}")
                place.mkdir()
                yield run_trial(trial, mesh_file, dataset, place)
        finally:
            mesh.stop()


def summary(rows: Sequence[Record]) -> dict[str, Any]:
    """Returns the totals of all trials."""
    num_wrong = sum(bool(row["lost"] or row["repeated"]) for row in rows)
    return {
        "n": len(rows),
        "trials": len(rows),
        "kills": sum(row["num_kills"] for row in rows),
        "acknowledged": sum(row["acknowledged"] for row in rows),
        "lost": sum(row["lost"] for row in rows),
        "repeated": sum(row["repeated"] for row in rows),
        "wrong_trials": num_wrong,
        "wrong_trials_share_below": upper_bound(num_wrong, len(rows)),
    }


def main() -> None:
    """Runs the remaining trials, and certifies the result if this was a full run on a clean working tree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resume", description=__doc__)
    parser.add_argument(
        "--trials", type=int, default=NUM_TRIALS, help=f"number of trials; a run of at least {NUM_TRIALS} is certified"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the trials")
    parser.add_argument("--quick", action="store_true", help="run two trials; certify nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object (always the last line)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the mesh is stopped and the folder removed
    num_trials = 2 if arguments.quick else arguments.trials
    where = provenance()
    file = progress_file("resume", where, f"{'quick' if arguments.quick else 'full'}-{arguments.seed}")
    if arguments.quick:
        file.unlink(missing_ok=True)
    rows = [row for row in read_progress(file) if row["number"] < num_trials]
    done = {row["number"] for row in rows}
    todo = [draw(arguments.seed, number) for number in range(num_trials) if number not in done]
    if todo:
        with file.open("a", encoding="utf-8") as results:
            for row in track(run_trials(todo), "trials", total=len(todo), transient=True):
                rows.append(row)
                results.write(json.dumps(row) + "\n")
                results.flush()
    result = {**summary(rows), "seed": arguments.seed, "quick": arguments.quick, **where}
    file.unlink()
    certify("resume", result, full=not arguments.quick and num_trials >= NUM_TRIALS)
    print(json.dumps(result))
    sys.exit(1 if result["wrong_trials"] else 0)


if __name__ == "__main__":
    main()
