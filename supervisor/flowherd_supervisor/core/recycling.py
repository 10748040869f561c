"""When a process is used up and gets a successor; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowherd_supervisor.core.plan import Plan

MEMORY_SAMPLES = 3  # in a row: a moment's peak ends no process
FULL = 0.9  # of the descriptors a process may open: beyond it no connection can be had (faults.md C17)


@dataclass(frozen=True, slots=True)
class Wear:
    """The wear of a process: tasks, slots, descriptors, memory.

    Attributes:
        done: activities that have ended in it.
        slots: for each of its workers, how many are held by handlers that do not end, and how many there are.
        descriptors: how many are open, and how many may be.
        grown_mb: memory beyond that of the fresh process, the newest `MEMORY_SAMPLES` looks.

    """

    done: int
    slots: Sequence[tuple[int, int]]
    descriptors: tuple[int, int]
    grown_mb: Sequence[float]


def used_up(wear: Wear, plan: Plan, chance: float) -> Iterator[str]:
    """The reasons to replace a process.

    Args:
        wear: how far it is used up.
        plan: says how much is allowed.
        chance: 0 to 1, of this process: it spreads the plan's numbers by a tenth, so that processes that are alike are
            not replaced together.

    """
    spread = 0.9 + 0.2 * chance
    if plan.max_tasks_per_child and wear.done >= plan.max_tasks_per_child * spread:
        yield f"{wear.done} activities"
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
