"""Two options of prctl(2), which Python's standard library does not offer."""

from __future__ import annotations

import ctypes
import os
import signal

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h

_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Makes this process the new parent of orphaned descendants."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Makes the kernel send SIGKILL when the current parent ends; the caller must check the parent afterwards."""
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)


def stop_with_parent() -> None:
    """Makes the kernel send SIGTERM when the current parent ends; this survives an exec."""
    _prctl(_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
