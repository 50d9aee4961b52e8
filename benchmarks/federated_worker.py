"""A node's worker that also writes how long each task waited until the data and the model were loaded."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepseek.federated import worker_link
from deepseek.federated.worker import Header, Worker

_FILE = "loads"


class TimedWorker(Worker):
    """Handles the requests of one node, and appends the round and the loading time of each to a file.

    Args:
        work_folder: Folder of the worker.
    """

    def __init__(self, work_folder: Path) -> None:
        super().__init__(work_folder)
        self._file = work_folder / _FILE

    def __call__(self, header: Mapping[str, Any], arrays: bytes) -> tuple[Header, bytes]:
        reply, update = super().__call__(header, arrays)
        number = 0 if header.get("check") else header["round"]
        with self._file.open("a", encoding="ascii") as file:
            file.write(json.dumps([number, reply["load_s"]]) + "\n")
        return reply, update


def read_loads(work_folder: Path) -> list[tuple[int, float]]:
    """Returns the round of each request, 0 before the first round, and for how many seconds it loaded data."""
    lines = (work_folder / _FILE).read_text(encoding="ascii").splitlines()
    return [(number, load_s) for number, load_s in map(json.loads, lines)]


if __name__ == "__main__":
    worker_link.serve(Path(sys.argv[1]), TimedWorker(Path(sys.argv[1])))
