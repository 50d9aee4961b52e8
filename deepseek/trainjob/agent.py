"""Starts the workers of a run: `python -m deepseek.trainjob.agent NUM_WORKERS JOB.json`.

If the agent dies, the kernel kills the workers. If the agent's parent dies, the kernel kills the agent. The agent
replaces torchrun, which opens a port and imports torch before it starts a worker (docs/decisions/0014).
"""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common.processes import die_with_parent, python, spawn, terminate

# After a worker has failed, the other workers fail as soon as they wait for it, and need time to report the reason.
_GRACE_S = 5.0
_POLL_S = 0.05


def main(argv: Sequence[str]) -> int:
    """Runs one worker per rank and prints which workers failed; returns 0 if none failed, otherwise 1."""
    die_with_parent()
    num_workers, job_file = int(argv[0]), argv[1]
    log = Path(job_file).with_name("child.log")
    running = {}
    for rank in range(num_workers):
        environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(num_workers)}
        running[rank] = spawn(python("deepseek.trainjob.train_main", job_file), env=environment, log=log)
    deadline = math.inf
    while running and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        for rank, worker in list(running.items()):
            if worker.poll() is not None:
                del running[rank]
                if worker.returncode:
                    print(f"worker {rank} of {num_workers} {_ended(worker)}", flush=True)
                    deadline = min(deadline, time.monotonic() + _GRACE_S)
    for worker in running.values():
        terminate(worker, grace_s=0)
    return int(deadline < math.inf)


def _ended(worker: "subprocess.Popen[bytes]") -> str:
    if worker.returncode < 0:
        return f"was ended by {signal.Signals(-worker.returncode).name}"
    return f"ended with status {worker.returncode}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
