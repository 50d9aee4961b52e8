"""Small file systems for tests that fill them or make them read-only. Without root, such tests are skipped."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.harness.processes import wait_until
from tests.harness.servers import missing


@contextlib.contextmanager
def tmpfs(folder: Path, size: str = "4m") -> Iterator[Path]:
    """Mounts an empty file system of a given size at a new folder."""
    if os.geteuid() != 0:
        missing("only root can mount a file system")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def make_read_only(folder: Path) -> None:
    """Makes a mounted file system read-only, for root too, which file modes do not achieve.

    Waits until no process has a file open for writing: one that has done its work may still be ending.
    """

    def remount() -> bool:
        done = subprocess.run(["mount", "-o", "remount,ro", folder], capture_output=True, check=False)
        return done.returncode == 0

    wait_until(remount, f"no process to write to {folder}")


def fill(folder: Path) -> None:
    """Fills a mounted file system to its last byte, with a file `filling`."""
    with contextlib.suppress(OSError), (folder / "filling").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
