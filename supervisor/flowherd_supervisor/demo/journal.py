"""The demo's own record of executions: what ran where and when; it must not ask the code under test anything.

Each execution of a handler appends one line with one `write` to a file opened with O_APPEND, which the kernel
keeps whole. So repeats are counted from outside, whatever engine and supervisor believe.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

KILL_EXPLAINS_S = 5.0
"""How long before its end a killed process may have begun what runs again: 50 ms, more on a busy host."""


class Execution(NamedTuple):
    """One start of one handler; times are of the host's monotonic clock, which all its processes share."""

    started_s: float
    pid: int
    key: str


class Tally(NamedTuple):
    """How often activities ran: once each is right, again only where a kill explains it."""

    never: int
    duplicates: int
    after_kill: int


def record(journal: str, key: str) -> None:
    """Append the start of one execution, made by this process now."""
    line = f"{time.monotonic():.6f} {os.getpid()} {key}\n".encode()
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def executions(journal: Path) -> list[Execution]:
    """Return all executions so far in the order of their writes."""
    if not journal.exists():
        return []
    rows = (line.split(" ", 2) for line in journal.read_text(encoding="utf-8").splitlines())
    return [Execution(float(started), int(pid), key) for started, pid, key in rows]


def tally(ran: Collection[Execution], keys: Collection[str], kills: Mapping[int, float]) -> Tally:
    """Count missing and repeated executions of `keys`; `kills` maps the pids of killed processes to times."""
    by_key: dict[str, list[Execution]] = defaultdict(list)
    for execution in ran:
        by_key[execution.key].append(execution)
    duplicates = after_kill = 0
    for key in keys:
        again = len(by_key[key]) - 1
        explained = min(max(again, 0), sum(_cut_short(execution, kills) for execution in by_key[key]))
        after_kill += explained
        duplicates += max(again, 0) - explained
    return Tally(sum(not by_key[key] for key in keys), duplicates, after_kill)


def _cut_short(execution: Execution, kills: Mapping[int, float]) -> bool:
    killed_s = kills.get(execution.pid)
    return killed_s is not None and 0 <= killed_s - execution.started_s <= KILL_EXPLAINS_S
