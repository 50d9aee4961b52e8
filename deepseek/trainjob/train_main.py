"""One data-parallel worker: `python -m deepseek.trainjob.train_main JOB.json`, started by `deepseek.trainjob.agent`.

This module is only the entry point of the process; `deepseek.trainjob.train` does the work. Before `main` imports slow
modules, it makes sure that the process exits when its parent, the agent, does.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import MeshError
from common.processes import die_with_parent


def main(argv: Sequence[str]) -> int:
    """Executes the run that a job file describes, and returns the exit code. Only MeshErrors are caught."""
    die_with_parent()
    from deepseek.trainjob.jobfile import traced
    from deepseek.trainjob.train import train

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
    # Skips Python's finalization: after DDP was used, a gloo thread outlives the process group, and finalization could
    # then abort the process (torch 2.13).
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
