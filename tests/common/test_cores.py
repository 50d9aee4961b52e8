"""The number of usable cores, with the files of control groups of both versions."""

import os
from pathlib import Path

import pytest

from common.cores import num_cores

ALL = len(os.sched_getaffinity(0))


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def cores(folder: Path, membership: str) -> int:
    file = folder / "membership"
    file.write_text(membership)
    return num_cores(membership=file, groups=folder / "cgroup")


@pytest.mark.skipif(ALL < 2, reason="one core is always one")
@pytest.mark.parametrize(
    ("quota", "expected"), [("100000 100000", 1), ("150000 100000", 1), ("10000 100000", 1), ("max 100000", ALL)]
)
def test_a_quota_of_version_2_counts_in_whole_cores(tmp_path: Path, quota: str, expected: int) -> None:
    write(tmp_path / "cgroup" / "mesh" / "trainer", cpu__max=quota)
    assert cores(tmp_path, "0::/mesh/trainer\n") == expected


def test_a_quota_above_all_cores_is_none(tmp_path: Path) -> None:
    write(tmp_path / "cgroup" / "a", cpu__max=f"{(ALL + 3) * 100000} 100000")
    assert cores(tmp_path, "0::/a\n") == ALL


def test_a_group_above_limits_those_below(tmp_path: Path) -> None:
    write(tmp_path / "cgroup" / "mesh", cpu__max="100000 100000")
    write(tmp_path / "cgroup" / "mesh" / "trainer", cpu__max="max 100000")
    assert cores(tmp_path, "0::/mesh/trainer\n") == 1


def test_version_1_keeps_quota_and_period_apart(tmp_path: Path) -> None:
    write(tmp_path / "cgroup" / "cpu,cpuacct" / "mesh", cpu__cfs_quota_us="50000", cpu__cfs_period_us="50000")
    assert cores(tmp_path, "4:memory:/mesh\n3:cpu,cpuacct:/mesh\n0::/mesh\n") == 1
    write(tmp_path / "cgroup" / "cpu,cpuacct" / "mesh", cpu__cfs_quota_us="-1")
    assert cores(tmp_path, "3:cpu,cpuacct:/mesh\n") == ALL


def test_in_a_container_the_own_group_may_be_mounted_at_the_top(tmp_path: Path) -> None:
    write(tmp_path / "cgroup" / "cpu", cpu__cfs_quota_us="100000", cpu__cfs_period_us="100000")
    assert cores(tmp_path, "2:cpu:/docker/4f2a\n") == 1


def test_without_control_groups_the_affinity_mask_counts(tmp_path: Path) -> None:
    assert num_cores(membership=tmp_path / "none", groups=tmp_path) == ALL
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert num_cores(membership=tmp_path / "none", groups=tmp_path) == 1
    finally:
        os.sched_setaffinity(0, allowed)
