"""The number of processes and slots that a host should run, from how busy it was."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flowherd.counted import counted

ENOUGH_S = 5.0  # of work, over all processes
BUSY = 0.7  # share of the loop; above it waits grow faster than the load
SATURATED = 0.9  # above this the amount of further work is unknown
OFTEN_FULL = 0.5  # of the time
SLOTS_AT_MOST = 4  # times the current number; then measure again


@dataclass(frozen=True, slots=True)
class HostLoad:
    """The work a host has done so far. Shares refer to the time in which a process had work.

    Attributes:
        processes: number of wanted processes.
        slots: slots of the whole host.
        cpus: number of usable CPUs.
        active_s: seconds with work, over all processes.
        loop_busy: share of the time that a loop was busy.
        movable: the part of `loop_busy` that the advice about activities would remove.
        cpu: CPUs that a process kept busy, with its threads and isolates.
        full: share of the time that a process had no free slot.

    """

    processes: int
    slots: int
    cpus: int
    active_s: float
    loop_busy: float
    movable: float
    cpu: float
    full: float


@dataclass(frozen=True, slots=True)
class Size:
    """A recommended number, None while it is unknown, and the reason in one sentence."""

    now: int
    advised: int | None
    reason: str


def processes(load: HostLoad) -> Size:
    """Returns the recommended number of worker processes."""
    now, busy = load.processes, f"the loop is busy {load.loop_busy:.0%} of the time with work"
    if load.active_s < ENOUGH_S:
        return Size(
            now, None, f"{load.active_s:.1f} s of work are too little to judge: {ENOUGH_S:g} s are needed"
        )
    if load.loop_busy >= BUSY:
        if load.loop_busy - load.movable < BUSY:
            return Size(now, now, f"{busy}: first follow the advice above, then measure again")
        if now >= load.cpus:
            return Size(now, now, f"{busy}, and every CPU has a process: add a host")
        needed = load.cpus if load.loop_busy >= SATURATED else math.ceil(now * load.loop_busy / BUSY)
        return Size(now, min(load.cpus, max(needed, now + 1)), busy)
    if now > load.cpus:
        return Size(now, load.cpus, f"more than the {counted(load.cpus, 'usable CPU')} gain nothing")
    return Size(now, now, busy)


@dataclass(frozen=True, slots=True)
class Parallel:
    """The choice between processes and threads of one process, and the reason in one sentence."""

    now: str
    advised: str
    reason: str


def parallel(now: str, workers: int, *, takes_turns: bool) -> Parallel:
    """Recommends processes, or threads of one process.

    Args:
        now: `processes` or `threads`.
        workers: recommended number of workers.
        takes_turns: True if this Python has a GIL.

    """
    if takes_turns:
        return Parallel(now, "processes", "this Python has a GIL: its threads take turns")
    if workers < 2:
        return Parallel(now, now, "a single worker has nothing to share")
    return Parallel(
        now,
        "threads",
        "this Python has no GIL: its threads compute at once and share memory, but end together",
    )


def slots(load: HostLoad) -> Size:
    """Returns the recommended number of slots."""
    now = load.slots
    if load.active_s < ENOUGH_S:
        return Size(now, None, "too little work to judge")
    reason = f"all are taken {load.full:.0%} of the time"
    used = max(load.loop_busy, load.cpu)
    if load.full < OFTEN_FULL:
        return Size(now, now, reason)
    if used >= BUSY:
        return Size(now, now, f"{reason}, but the processes are busy {used:.0%} of it: more would only wait")
    advised = math.ceil(now * min(SLOTS_AT_MOST, BUSY / max(used, BUSY / SLOTS_AT_MOST)))
    return Size(now, max(advised, now), f"{reason}, and the processes are busy {used:.0%} of it")
