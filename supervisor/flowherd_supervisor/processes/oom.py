"""Finds out whether a SIGKILL came from the kernel because memory ran out."""

from __future__ import annotations

import signal
import time
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from flowherd.wait_status import NOT_OUT_OF_MEMORY, OUT_OF_MEMORY

if TYPE_CHECKING:
    from collections.abc import Callable

_AT_ONCE_S = 1.0  # kills by the kernel in which the exits of several processes are reaped together


class OomCounter:
    """The `oom_kill` count of this process's control group (cgroup v2, `memory.events`).

    Args:
        root: parent folder of `proc` and `sys`.
        clock: monotonic seconds.

    """

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._file = _memory_events(root)
        self._clock = clock
        self._explained = self._seen = self._read()
        self._seen_at = -inf

    def annotate(self, status: int) -> int:
        """Adds to the wait status of a SIGKILL whether memory ran out; unchanged if the kernel does not report it."""
        if status & 0x7F != signal.SIGKILL:
            return status
        count = self._read()
        if count is None or self._seen is None or self._explained is None:
            return status
        now = self._clock()
        if now - self._seen_at > _AT_ONCE_S:
            self._explained = self._seen  # the rest were no processes of this host
        if count > self._seen:
            self._seen, self._seen_at = count, now
        if self._explained == count:
            return status | NOT_OUT_OF_MEMORY
        self._explained += 1
        return status | OUT_OF_MEMORY

    def _read(self) -> int | None:
        try:
            lines = self._file.read_text(encoding="ascii").splitlines() if self._file else []
        except OSError:
            return None
        counts = dict(line.split() for line in lines if len(line.split()) == 2)
        return int(counts["oom_kill"]) if "oom_kill" in counts else None


def _memory_events(root: Path) -> Path | None:
    """Returns the counter's file; None for the root group and for cgroup v1, which have none."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    own = next((line.removeprefix("0::") for line in groups if line.startswith("0::")), None)
    file = root / "sys/fs/cgroup" / (own or "").lstrip("/") / "memory.events"
    return file if own is not None and file.is_file() else None
