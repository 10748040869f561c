"""The limits at which a process is replaced: tasks, slots, descriptors, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowherd.counted import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowherd_supervisor.core.plan import Plan

MEMORY_SAMPLES = 3  # in a row, so that a short peak replaces no process
FULL = 0.9  # share of the descriptors a process may open; without any left it cannot connect (faults.md C17)


@dataclass(frozen=True, slots=True)
class Wear:
    """The usage of a process: tasks, slots, descriptors, memory.

    Attributes:
        done: number of activities that have ended in it.
        slots: for each of its workers, the slots held by detached handlers and all slots.
        descriptors: open descriptors and their limit.
        grown_mb: growth since the process was fresh, the newest `MEMORY_SAMPLES` samples in MB.

    """

    done: int
    slots: Sequence[tuple[int, int]]
    descriptors: tuple[int, int]
    grown_mb: Sequence[float]


def used_up(wear: Wear, plan: Plan, chance: float) -> Iterator[str]:
    """Yields the reasons to replace a process.

    Args:
        wear: its usage.
        plan: the plan with the limits.
        chance: a number from 0 to 1, constant for this process, that varies the limits by up to 10 %, so that similar
            processes are not replaced together.

    """
    spread = 0.9 + 0.2 * chance
    if plan.max_tasks_per_child and wear.done >= plan.max_tasks_per_child * spread:
        yield counted(wear.done, "activity")
    for detached, limit in wear.slots:
        if detached and detached >= limit:
            yield f"all {detached} slots are held by handlers that do not end"
    fds, most_fds = wear.descriptors
    if fds > FULL * most_fds:
        yield f"{fds} of at most {most_fds} descriptors are open"
    if plan.max_memory_mb_per_child and len(wear.grown_mb) >= MEMORY_SAMPLES:
        most_mb = plan.max_memory_mb_per_child * spread
        if all(grown_mb > most_mb for grown_mb in wear.grown_mb):
            yield f"{wear.grown_mb[-1]:.0f} MB more than when fresh"
