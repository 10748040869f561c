"""How many descriptors a process has open, and may have; nothing else."""

from __future__ import annotations

import resource
from pathlib import Path


def open_descriptors(pid: int) -> tuple[int, int]:
    """Open descriptors of a process and its limit; (0, 0) once it has ended, or where that is not to be seen."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()), resource.prlimit(
            pid, resource.RLIMIT_NOFILE
        )[0]
    except OSError:
        return 0, 0
