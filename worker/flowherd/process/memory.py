"""How much memory a process has in RAM; nothing else."""

from __future__ import annotations

import os
import resource
from pathlib import Path

_PAGE = resource.getpagesize()


def resident_bytes(pid: int | None = None) -> int:
    """Resident memory of a process, or of this one; 0 once it has ended."""
    try:
        pages = Path(f"/proc/{pid or os.getpid()}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * _PAGE
