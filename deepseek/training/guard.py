"""Runs a module as a program that dies with its parent: `python -m deepseek.training.guard MODULE ARGUMENTS...`.

torchrun's agent knows nothing of the trainer above it, and starts its workers in sessions of their own. Guarded, the
agent ends when the trainer does and its workers, which ask for it themselves, when the agent does: each link is a
parent and its child, so the kernel carries the news even while an import holds the interpreter's lock.
"""

import os
import runpy
import sys

from common.processes import PARENT_PID, die_with_parent


def main() -> None:
    """Replaces this program by the module that its first argument names."""
    die_with_parent()
    os.environ[PARENT_PID] = str(os.getpid())
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
