"""The number of CPUs this process may use, by affinity and cgroup quota."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping


NUMERIC_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class _Mount(NamedTuple):
    root: PurePosixPath
    point: PurePosixPath
    version: int


def usable_cpus(*, affinity: int | None = None, root: Path = Path("/")) -> int:
    """Returns the number of processes that can compute at the same time, at least 1.

    The smaller of `affinity` (CPUs in the mask, read from the kernel when not given) and the tightest CPU
    quota of this process's cgroup and all its ancestors, versions 1 and 2. A quota of 1.5 CPUs counts as 2:
    the second process can still use half a CPU. `root` differs from `/` only in tests.
    """
    if affinity is None:
        affinity = len(os.sched_getaffinity(0))
    quota = cgroup_quota(root)
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def limit_numeric_threads(environment: MutableMapping[str, str], processes: int) -> str:
    """Limits the threads of numeric libraries so that all processes together use no more than the CPUs.

    Each process would otherwise start as many threads as there are CPUs. Variables that are set stay.

    Args:
        environment: the environment that processes inherit.
        processes: number of processes.

    Returns:
        A phrase for the banner; "" if all variables were set.

    """
    each = max(1, usable_cpus() // processes)
    unset = [name for name in NUMERIC_THREADS if name not in environment]
    environment.update(dict.fromkeys(unset, str(each)))
    return f"{each} in each process ({', '.join(unset)})" if unset else ""


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """Returns the tightest CPU quota of all ancestors in CPUs, None if there is none."""
    quotas = [quota for folder in _cgroup_folders(root) if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _cgroup_folders(root: Path) -> Iterator[Path]:
    """Yields every folder that can hold a quota for this process, from its own cgroup up to each mount."""
    paths = _own_paths(_read(root / "proc/self/cgroup"))
    for mount in _mounts(_read(root / "proc/self/mountinfo")):
        own = paths.get(mount.version)
        if own is None:
            continue
        below = _below(own, mount.root)
        for part in (below, *below.parents):
            yield root / str(mount.point).lstrip("/") / part


def _own_paths(text: str) -> dict[int, PurePosixPath]:
    """Maps the cgroup version to this process's path; a line reads `hierarchy:controllers:path`."""
    paths: dict[int, PurePosixPath] = {}
    for line in text.splitlines():
        hierarchy, controllers, path = (*line.split(":", 2), "", "")[:3]
        if hierarchy == "0" and not controllers:
            paths[2] = PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            paths[1] = PurePosixPath(path)
    return paths


def _mounts(text: str) -> Iterator[_Mount]:
    """Yields the cgroup mounts that can carry CPU quotas (proc(5), mountinfo)."""
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if not separator or len(fields) < 5 or not kind:  # 5: up to the mount point
            continue
        where = PurePosixPath(_unescape(fields[3])), PurePosixPath(_unescape(fields[4]))
        if kind[0] == "cgroup2":
            yield _Mount(*where, version=2)
        elif kind[0] == "cgroup" and "cpu" in kind[-1].split(","):
            yield _Mount(*where, version=1)


def _below(path: PurePosixPath, mount_root: PurePosixPath) -> PurePosixPath:
    """Returns the path relative to its mount; a path outside the mount becomes the mount itself."""
    if ".." in path.parts:  # the cgroup lies above the root of our cgroup namespace
        return PurePosixPath()
    if path.is_relative_to(mount_root):
        return path.relative_to(mount_root)
    return path.relative_to("/") if path.is_absolute() else PurePosixPath()


def _quota_of(folder: Path) -> float | None:
    """Returns the quota of one cgroup folder in CPUs, None if it has none."""
    words = _read(folder / "cpu.max").split()  # version 2: "max 100000" or "150000 100000"
    if not words:  # version 1: two files, -1 for no limit
        words = [*_read(folder / "cpu.cfs_quota_us").split(), *_read(folder / "cpu.cfs_period_us").split()]
    try:
        quota_us, period_us = (int(word) for word in words)
    except ValueError:
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def _unescape(text: str) -> str:
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # no such controller, or not visible here
        return ""
