"""The exit codes that people script against; nothing else."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of flowherd's programs."""

    CLEAN = 0
    INTERNAL = 1
    USAGE = 2
    BOOT_FAILED = 3
    CREDENTIALS_REFUSED = 4
    CRASH_LOOP = 5
    RELEASED = 6
