"""The usable CPU count on fake /proc and cgroup trees; nothing here depends on the machine's own limits."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from flowherd_supervisor.processes.cpus import cgroup_quota, usable_cpus

if TYPE_CHECKING:
    from pathlib import Path

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
V1_CPUSET = "34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_any_cgroup_the_affinity_mask_counts(tmp_path: Path) -> None:
    """A machine without containers has no limit files at all."""
    assert cgroup_quota(tmp_path) is None
    assert usable_cpus(affinity=6, root=tmp_path) == 6


def test_a_v2_quota_below_the_mask_counts(tmp_path: Path) -> None:
    """`docker run --cpus 2` on a 16-core host would throttle 16 processes."""
    root = tree(
        tmp_path,
        {
            "proc/self/mountinfo": V2,
            "proc/self/cgroup": "0::/app\n",
            "sys/fs/cgroup/app/cpu.max": "200000 100000\n",
        },
    )
    assert usable_cpus(affinity=16, root=root) == 2


def test_the_tightest_ancestor_decides(tmp_path: Path) -> None:
    """A quota on a slice binds every unit below it, whatever the unit's own file says."""
    root = tree(
        tmp_path,
        {
            "proc/self/mountinfo": V2,
            "proc/self/cgroup": "0::/a.slice/b.slice/c.service\n",
            "sys/fs/cgroup/a.slice/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/a.slice/b.slice/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a.slice/b.slice/c.service/cpu.max": "800000 100000\n",
        },
    )
    assert cgroup_quota(root) == 3.0
    assert usable_cpus(affinity=16, root=root) == 3


def test_a_v1_quota_counts_and_minus_one_means_none(tmp_path: Path) -> None:
    """Version 1 spells the limit in two files, and other controllers have other paths."""
    root = tree(
        tmp_path,
        {
            "proc/self/mountinfo": V1_CPUSET + V1,
            "proc/self/cgroup": "5:cpuset:/elsewhere\n3:cpu,cpuacct:/jobs/j1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/jobs/j1/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/jobs/j1/cpu.cfs_period_us": "100000\n",
        },
    )
    assert usable_cpus(affinity=16, root=root) == 4


def test_on_a_hybrid_host_both_versions_are_read(tmp_path: Path) -> None:
    """systemd's hybrid layout mounts version 2 without the cpu controller."""
    root = tree(
        tmp_path,
        {
            "proc/self/mountinfo": "31 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n" + V1,
            "proc/self/cgroup": "1:cpu,cpuacct:/\n0::/init.scope\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "50000\n",
        },
    )
    assert cgroup_quota(root) == 2.0


@pytest.mark.parametrize(
    ("mount_root", "own"), [("/docker/abc", "/docker/abc"), ("/", "/../../abc"), ("/docker/abc", "/")]
)
def test_inside_a_container_the_mount_itself_holds_the_limit(
    tmp_path: Path, mount_root: str, own: str
) -> None:
    """With and without a cgroup namespace the path and the mount's root name the same place differently."""
    root = tree(
        tmp_path,
        {
            "proc/self/mountinfo": f"30 23 0:26 {mount_root} /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
            "proc/self/cgroup": f"0::{own}\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
        },
    )
    assert usable_cpus(affinity=8, root=root) == 2


@pytest.mark.parametrize("text", ["", "max 100000", "100000", "a b", "0 100000", "1 2 3"])
def test_an_unreadable_limit_is_no_limit(tmp_path: Path, text: str) -> None:
    """A file we cannot read must not turn eight CPUs into one, or into an exception at boot."""
    root = tree(
        tmp_path,
        {
            "proc/self/mountinfo": V2 + "garbage\n",
            "proc/self/cgroup": "0::/\nx\n",
            "sys/fs/cgroup/cpu.max": text,
        },
    )
    assert usable_cpus(affinity=8, root=root) == 8


def test_a_fraction_of_one_cpu_still_gives_one_process(tmp_path: Path) -> None:
    """At least one process must run."""
    root = tree(
        tmp_path,
        {
            "proc/self/mountinfo": V2,
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "20000 100000",
        },
    )
    assert usable_cpus(affinity=8, root=root) == 1


def test_the_real_machine_never_exceeds_its_mask() -> None:
    """The default arguments read this machine; the mask is the upper bound anywhere."""
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))
