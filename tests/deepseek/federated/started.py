"""Workers that tests start: they end with the test that started them."""

from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen
from typing import Self

from common.processes import spawn


class Started:
    """Starts workers, like `deepseek.federated.worker_link.detached`, and kills them at the end of a `with` block.

    Args:
        argv: Program and arguments.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.processes: list[Popen[bytes]] = []
        self._argv = argv

    def __call__(self, log: Path) -> Popen[bytes]:
        self.processes.append(spawn(self._argv, env=None, log=log))
        return self.processes[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """Kills the last worker."""
        self.processes[-1].kill()
        self.processes[-1].wait()
