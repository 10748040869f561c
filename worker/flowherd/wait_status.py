"""Wait statuses: the kind of end one speaks of, and one in words; never more than the status says."""

from __future__ import annotations

import signal

OUT_OF_MEMORY = 1 << 16  # beside the 16 bits of a wait status: the kernel has counted an out-of-memory kill
NOT_OUT_OF_MEMORY = 1 << 17  # ... or has counted none, and would have
OURS = 1 << 18  # the supervisor has sent it SIGKILL


def kind_of(status: int) -> str:
    """`exit`, `signal` or `out_of_memory`: short enough for the label of a metric (faults.md S2)."""
    if status & OUT_OF_MEMORY:
        return "out_of_memory"
    return "signal" if status & 0x7F else "exit"


def may_be_out_of_memory(status: int) -> bool:
    """True when the kernel may have ended the process for want of memory."""
    return status & 0x7F == signal.SIGKILL and not status & (NOT_OUT_OF_MEMORY | OURS)


def describe_status(status: int, killed_for: str = "") -> str:
    """A wait status in words, such as `was killed by SIGKILL (out of memory)`.

    Without a word from the kernel a SIGKILL may have been one: the question mark says so.

    Args:
        status: annotated as in `flowherd.wait_status`.
        killed_for: why we have killed the process, if we have.

    """
    if status & OURS:
        return f"was killed by flowherd: {killed_for}" if killed_for else "was killed by flowherd"
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
