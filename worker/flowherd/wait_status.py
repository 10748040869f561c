"""Wait statuses: their kinds, and their descriptions in words."""

from __future__ import annotations

import signal

OUT_OF_MEMORY = 1 << 16  # above the 16 bits of a wait status: the kernel counted an out-of-memory kill
NOT_OUT_OF_MEMORY = 1 << 17  # the kernel counted none, although it would have
OURS = 1 << 18  # the supervisor sent SIGKILL


def kind_of(status: int) -> str:
    """Returns `exit`, `signal` or `out_of_memory`, for the label of a metric (faults.md S2)."""
    if status & OUT_OF_MEMORY:
        return "out_of_memory"
    return "signal" if status & 0x7F else "exit"


def may_be_out_of_memory(status: int) -> bool:
    """True when the kernel may have killed the process for lack of memory."""
    return status & 0x7F == signal.SIGKILL and not status & (NOT_OUT_OF_MEMORY | OURS)


def is_from_outside(status: int) -> bool:
    """True for a SIGKILL that was neither the supervisor's nor counted as the kernel's for lack of memory."""
    return status & 0x7F == signal.SIGKILL and not status & (OUT_OF_MEMORY | OURS)


def describe_status(status: int, killed_for: str = "") -> str:
    """Describes a wait status in words, such as `was killed by SIGKILL (out of memory)`.

    A SIGKILL without a count from the kernel may have been an out-of-memory kill, marked with a question mark.

    Args:
        status: a wait status with the bits of this module.
        killed_for: the reason, if the supervisor killed the process.

    """
    if status & OURS:
        return f"was stopped by flowherd: {killed_for}" if killed_for else "was stopped by flowherd"
    kind = status & 0xFFFF
    code = -(kind & 0x7F) if kind & 0x7F else kind >> 8
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if not may_be_out_of_memory(status):
        return f"was killed by {name}"
    return f"was killed by {name} (out of memory{'' if status & OUT_OF_MEMORY else '?'})"
