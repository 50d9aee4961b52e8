"""Collects the garbage of a mesh up to its first blob, for a test that kills it there.

Usage: python -m tests.e2e.collector MESH_FILE
"""

import sys
import threading

from deepseek.client import connect
from deepseek.upkeep.garbage import collect


def _wait(done: int, total: int) -> None:
    print(done, total, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    with connect(sys.argv[1]) as mesh:
        collect(mesh, grace_s=0, on_blob=_wait)
