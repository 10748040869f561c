"""The number of processes and slots a host should run, judged from how busy it was; pure, and it measures nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

ENOUGH_S = 5.0  # of work, over all processes
BUSY = 0.7  # of the loop: beyond it waits grow faster than the load
SATURATED = 0.9  # how much more there is to do cannot be seen from here on
OFTEN_FULL = 0.5  # of the time
SLOTS_AT_MOST = 4  # times as many as now: then measure again


@dataclass(frozen=True, slots=True)
class HostLoad:
    """The work a host has done so far. Shares are of the time that a process had work at all.

    Attributes:
        processes: that are wanted now.
        slots: of the whole host.
        cpus: usable.
        active_s: seconds with work, over all processes.
        loop_busy: share of the time that a loop was busy.
        movable: of it, what would go if the advice about activities were followed.
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
    """A recommended number, None while it is unknown, and why in one sentence."""

    now: int
    advised: int | None
    reason: str


def processes(load: HostLoad) -> Size:
    """The recommended number of worker processes."""
    now, busy = load.processes, f"the loop is busy {load.loop_busy:.0%} of the time with work"
    if load.active_s < ENOUGH_S:
        return Size(
            now, None, f"{load.active_s:.1f} s of work are too little to judge: {ENOUGH_S:g} s are needed"
        )
    if load.loop_busy >= BUSY:
        if load.loop_busy - load.movable < BUSY:
            return Size(now, now, f"{busy}: first move what is said above, then measure again")
        if now >= load.cpus:
            return Size(now, now, f"{busy}, and every CPU has a process: add a host")
        needed = load.cpus if load.loop_busy >= SATURATED else math.ceil(now * load.loop_busy / BUSY)
        return Size(now, min(load.cpus, max(needed, now + 1)), busy)
    if now > load.cpus:
        return Size(now, load.cpus, f"more than the {load.cpus} usable CPUs gain nothing")
    return Size(now, now, busy)


@dataclass(frozen=True, slots=True)
class Parallel:
    """The choice between processes and threads of one process, and why in one sentence."""

    now: str
    advised: str
    reason: str


def parallel(now: str, workers: int, *, takes_turns: bool) -> Parallel:
    """When threads would pay.

    Args:
        now: `processes` or `threads`.
        workers: that there should be.
        takes_turns: whether threads of this Python do, since it has a GIL.

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
    """The recommended number of activities at once."""
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
