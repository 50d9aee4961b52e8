"""Small file systems for tests that fill them or make them read-only. Needs root; other users' tests are skipped."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.processes import wait_until
from tests.servers import missing


@contextlib.contextmanager
def tmpfs(folder: Path, size: str = "4m") -> Iterator[Path]:
    """Mounts an empty file system of a given size at a folder, which it makes."""
    if os.geteuid() != 0:
        missing("only root can mount a file system")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def make_read_only(folder: Path) -> None:
    """Makes a mounted file system read-only; root is refused too, which file modes do not achieve.

    Waits for whoever has a file open to write: a process that has done its work may still be ending.
    """

    def remount() -> bool:
        done = subprocess.run(["mount", "-o", "remount,ro", folder], capture_output=True, check=False)
        return done.returncode == 0

    wait_until(remount, f"nobody to write to {folder}")


def fill(folder: Path) -> None:
    """Fills a mounted file system to its last byte, with a file `filling`."""
    with contextlib.suppress(OSError), (folder / "filling").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
