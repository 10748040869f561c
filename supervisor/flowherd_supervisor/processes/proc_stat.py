"""Reads `/proc/PID/stat`; it changes nothing."""

from __future__ import annotations

from pathlib import Path

_FLAGS, _PF_EXITING = 6, 0x4  # counted from the state


def is_exiting(pid: int) -> bool:
    """True when the kernel has begun to end it, for whatever reason (proc(5), `flags` in /proc/PID/stat)."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return False
    return bool(int(fields[_FLAGS]) & _PF_EXITING)
