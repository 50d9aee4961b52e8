"""Determines the number of cores that this process may use, which may be fewer than the machine has.

A container is usually limited by a quota on its control group (`docker run --cpus 2`). This quota is visible neither in
the number of CPUs nor in the affinity mask. Work slows down if it uses more threads than the quota allows.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path


def num_cores(*, membership: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns the number of threads that can compute at the same time, at least 1.

    Args:
        membership: File that lists the control groups of this process.
        groups: Mount point of the control groups, version 1 or 2.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    # A quota of 1.5 cores counts as 1: a second thread would be paused half of the time, and the first would wait.
    return max(1, min([cores, *(int(quota) for quota in _quotas(membership, groups))]))


def _quotas(membership: Path, groups: Path) -> Iterator[float]:
    """Yields the quotas, in cores, of this process's control groups and of all their ancestors."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = groups / controllers
        # In a container, the path may be the one on the host, although the mount point is the container's own group.
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
