"""One data-parallel worker: `python -m deepseek.training.worker JOB.json`, started by `deepseek.training.agent`.

The program of a worker process, nothing else: it dies with its agent before anything slow is imported, trains, and
says how it ended. Training itself is `deepseek.training.session`.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import MeshError
from common.processes import die_with_parent


def main(argv: Sequence[str]) -> int:
    """Carries out the job file's run; returns the exit code. Anything unforeseen is a crash with its traceback."""
    die_with_parent()
    from deepseek.training.jobfile import traced
    from deepseek.training.session import train

    path = Path(argv[0])
    try:
        with traced(path, "train"):
            train(path)
    except MeshError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    # Without taking the interpreter apart: once there was a DDP, a thread of gloo outlives the process group, and may
    # abort the process when Python finalises (torch 2.13).
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
