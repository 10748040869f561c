"""How many descriptors a process has open, and may have; nothing else."""

from __future__ import annotations

import os
import resource


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
