"""Two switches of the kernel that Python has no name for; nothing else."""

from __future__ import annotations

import ctypes
import os
import signal

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h

_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """From now on the orphans of this process's descendants become its own children."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """SIGKILL for this process when its present parent ends; the caller must look once more who that is."""
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)


def stop_with_parent() -> None:
    """SIGTERM for this process when its present parent ends; it holds for what the process executes, too."""
    _prctl(_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
