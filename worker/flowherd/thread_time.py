"""The run-queue time of the calling thread, from the kernel."""

from __future__ import annotations

import os

_SCHEDSTAT = "/proc/thread-self/schedstat"  # time on a CPU, and time waiting for one, in ns


def queued_s() -> float:
    """Returns the total seconds the thread waited for a CPU; 0 when the kernel does not provide it."""
    try:
        file = os.open(_SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(file, 64).split()[1]) / 1e9
        finally:
            os.close(file)
    except (OSError, IndexError, ValueError):
        return 0.0
