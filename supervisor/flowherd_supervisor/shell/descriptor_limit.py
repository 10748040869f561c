"""The descriptors a process has open, may have, and needs."""

from __future__ import annotations

import os
import resource

from flowherd.errors import ConfigurationError

_OF_A_PROCESS = 3  # in the supervisor: its link, its pidfd, the file for its stacks
_OF_ONES_OWN = 64  # connections, sockets, the app's files


def open_descriptors(pid: int) -> tuple[int, int]:
    """Open descriptors of a process and its limit; (0, 0) once it has ended, or where that is not to be seen.

    Linux 6.2 and newer say how many as the size of the folder; before, they are listed.
    """
    folder = f"/proc/{pid}/fd"
    try:
        count = os.stat(folder).st_size or len(os.listdir(folder))  # noqa: PTH116, PTH208 - idle, seldom, cheap
        return count, resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
    except OSError:
        return 0, 0


def reserve_descriptors(processes: int, shared: int) -> None:
    """Raises the limit to what a host needs, where it may.

    Args:
        processes: how many workers there may be at once.
        shared: descriptors that every process of the host inherits.

    Raises:
        ConfigurationError: the host may not open so many.

    """
    needed = shared + _OF_A_PROCESS * processes + _OF_ONES_OWN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed > hard:
        raise ConfigurationError(
            f"{processes} processes need {needed} open files, and at most {hard} are allowed: "
            "raise the limit (ulimit -n), or start fewer processes"
        )
    if needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
