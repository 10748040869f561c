"""Reads /proc (proc(5)), which also answers for a process that is blocked or stopped."""

from __future__ import annotations

import os
import resource
from pathlib import Path

_PAGE = resource.getpagesize()
_LONGEST = 200  # bytes: seven numbers


def resident_bytes(pid: int | None = None) -> int:
    """Returns the resident memory of a process, by default this one, in bytes; 0 when it has ended."""
    try:
        file = os.open(f"/proc/{pid or os.getpid()}/statm", os.O_RDONLY | os.O_CLOEXEC)
        try:
            pages = os.read(file, _LONGEST).split()[1]
        finally:
            os.close(file)
    except (OSError, IndexError):
        return 0
    return int(pages) * _PAGE


def stat_fields(pid: int) -> list[str]:
    """Returns the fields of `/proc/PID/stat` after the name in brackets, from the state on; [] when it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
