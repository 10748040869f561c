"""The kernel's account of the calling thread's time; it measures nothing itself and keeps nothing open."""

from __future__ import annotations

import os
from time import thread_time

_SCHEDSTAT = "/proc/thread-self/schedstat"  # on a CPU, and ready to run without one, both in ns


def queued_s() -> float:
    """Seconds it has ever been ready to run without a CPU; 0 where the kernel does not say."""
    try:
        file = os.open(_SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(file, 64).split()[1]) / 1e9
        finally:
            os.close(file)
    except (OSError, IndexError, ValueError):
        return 0.0


def busy_s() -> float:
    """Seconds it has ever had a CPU, or waited for one: for the rest of its life it had nothing to do."""
    return thread_time() + queued_s()
