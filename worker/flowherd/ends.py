"""The kind of end a wait status speaks of, in one word of a closed list; pure, and never more than the status says."""

from __future__ import annotations

OUT_OF_MEMORY = 1 << 16  # beside the 16 bits of a wait status: the kernel has counted an out-of-memory kill
NOT_OUT_OF_MEMORY = 1 << 17  # ... or has counted none, and would have
OURS = 1 << 18  # the supervisor has sent it SIGKILL


def kind_of(status: int) -> str:
    """`exit`, `signal` or `out_of_memory`: short enough for the label of a metric (faults.md S2)."""
    if status & OUT_OF_MEMORY:
        return "out_of_memory"
    return "signal" if status & 0x7F else "exit"
