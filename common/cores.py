"""How many cores this process may use: those its limits leave, which may be fewer than the machine has.

A container is mostly given a part of a machine by a quota of its control group (`docker run --cpus 2`), of which
neither the number of processors nor the affinity mask says anything. Threads beyond it make work slower, not faster.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path


def num_cores(*, membership: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns how many threads can compute at the same time, at least 1.

    Args:
        membership: File that says which control groups this process is in.
        groups: Where control groups are mounted, version 1 or 2.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    # Of 1.5 cores one is whole; a second thread would be stopped half of the time, and the first wait for it.
    return max(1, min([cores, *(int(quota) for quota in _quotas(membership, groups))]))


def _quotas(membership: Path, groups: Path) -> Iterator[float]:
    """The quotas, in cores, of this process's control groups and of all above them."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = groups / controllers
        # In a container the path may be the host's, and what is mounted at the top be the container's own group.
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if quota := _quota(folder):
                yield quota
            if folder == top:
                break


def _quota(group: Path) -> float | None:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            limit, period = " ".join((group / name).read_text(encoding="ascii") for name in names).split()
            return int(limit) / int(period) if int(limit) > 0 else None
        except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
            continue
    return None
