"""Runs a function on several ranks, each a fresh process, over gloo."""

import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

TIMEOUT_S = 360


def run_ranks(
    world_size: int, function: Callable[[Path], None], folder: Path
) -> list[subprocess.CompletedProcess[str]]:
    """Calls a module's function with a folder on every rank, and waits for all.

    Args:
        world_size: Number of processes; 1 has no process group.
        function: Of a module of the tests.
        folder: Given to the function, for what goes in and what comes out.

    Returns:
        What became of each rank, with its output.
    """
    rendezvous = folder / f"rendezvous-{function.__name__}"
    rendezvous.unlink(missing_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = []
    for rank in range(world_size):
        target = f"{function.__module__}:{function.__name__}"
        arguments = [target, str(folder), str(rendezvous), str(rank), str(world_size)]
        processes.append(
            subprocess.Popen(
                [sys.executable, "-W", "error", "-m", __name__, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
        )
    try:
        outputs = [process.communicate(timeout=TIMEOUT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


def check_ranks(world_size: int, function: Callable[[Path], None], folder: Path) -> None:
    """As `run_ranks`; fails with the output of the first rank that failed."""
    for done in run_ranks(world_size, function, folder):
        assert done.returncode == 0, done.stderr


def _main(target: str, folder: str, rendezvous: str, rank: str, world_size: str) -> None:
    import torch.distributed as dist

    from deepseek.training.precision import SlowPrecisionWarning

    warnings.simplefilter("ignore", SlowPrecisionWarning)  # depends on the processor
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    if int(world_size) > 1:
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=int(rank), world_size=int(world_size))
    function(Path(folder))
    if int(world_size) > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    _main(*sys.argv[1:])
    # Without taking the interpreter apart: gloo's threads outlive their group once there was a DDP (torch 2.13), and
    # one that gives back the tensor of the last all-reduce while Python finalises aborts the process, one time in ten.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
