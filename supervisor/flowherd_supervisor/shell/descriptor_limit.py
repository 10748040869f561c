"""The file descriptors that a process has open, may open and needs."""

from __future__ import annotations

import os
import resource

from flowherd.counted import counted
from flowherd.errors import ConfigurationError

_OF_A_PROCESS = 3  # per process, in the supervisor: link, pidfd, file for its stacks
_OF_ONES_OWN = 64  # a process's own connections, sockets and files of the app


def open_descriptors(pid: int) -> tuple[int, int]:
    """Returns the open descriptors of a process and its limit; (0, 0) if it has ended or cannot be inspected.

    Linux 6.2 and newer report the number as the size of the folder; on older ones they are listed.
    """
    folder = f"/proc/{pid}/fd"
    try:
        count = os.stat(folder).st_size or len(os.listdir(folder))  # noqa: PTH116, PTH208 - idle, seldom, cheap
        return count, resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    except OSError:
        return 0, 0


def reserve_descriptors(processes: int, most: int, shared: int) -> None:
    """Raises the soft limit of open files to what the host needs, and may need as far as the hard limit allows.

    Args:
        processes: the workers at the start.
        most: the most workers at once, after scaling and amid a reload.
        shared: number of descriptors that every process of the host inherits.

    Raises:
        ConfigurationError: the hard limit is too low.

    """
    needed = shared + _OF_A_PROCESS * processes + _OF_ONES_OWN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed > hard:
        raise ConfigurationError(
            f"{counted(processes, 'process')} would need {needed} open files, and at most {hard} are allowed: "
            "raise the limit (ulimit -n), or start fewer processes"
        )
    needed = min(hard, shared + _OF_A_PROCESS * most + _OF_ONES_OWN)
    if needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
