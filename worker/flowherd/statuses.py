"""Wait statuses in words; nothing else."""

from __future__ import annotations

import signal


def describe_status(status: int) -> str:
    """A wait status in words, such as `was killed by SIGKILL (out of memory?)`."""
    code = -(status & 0x7F) if status & 0x7F else status >> 8
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
