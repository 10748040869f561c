"""Splits the host's concurrency over its processes and moves shares without ever exceeding it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowherd.link.split_over_threads import spread

if TYPE_CHECKING:
    from flowherd_supervisor.core.events import SlotsSeen
    from flowherd_supervisor.core.state import ProcessState, State
    from flowherd_supervisor.core.transition import Transition


def split(total: int, processes: int) -> tuple[int, ...]:
    """Returns even shares, the larger ones first: 10 over 4 is 3, 3, 2, 2 (faults.md P18).

    Raises:
        ValueError: a process would get no slot; start fewer processes.

    """
    if not 1 <= processes <= total:
        raise ValueError(f"{total} slots cannot be split over {processes} processes")
    return spread(total, processes)


def rebalance(transition: Transition) -> None:
    """Moves limits towards the even split: first down, then up by what is certainly free.

    A process is charged what it may still use: its old limit until it has applied the new one, and what it holds when
    it retires. A raise up to that charge takes nothing from the free slots.
    """
    state = transition.state
    if not state.is_serving:
        return
    for process, share in zip(state.processes, state.plan.shares, strict=True):
        if process.limit > share:
            transition.grant(process, share)
    free = state.plan.concurrency - sum(worker.charge for worker in transition.state.workers)
    for process, share in zip(transition.state.processes, state.plan.shares, strict=True):
        limit = min(share, process.charge + max(free, 0))
        if limit > process.limit:
            transition.grant(process, limit)
            free -= max(limit - process.charge, 0)


def slots_seen(transition: Transition, process: ProcessState, event: SlotsSeen) -> None:
    """Stores the last order that a worker has applied and the slots it holds."""
    ceiling = process.limit if event.applied >= process.n else process.ceiling
    transition.put(replace(process, applied=event.applied, held=event.held, ceiling=ceiling))


def in_transit(state: State) -> bool:
    """True while slots move from one process to another, so that the ledger must be scanned often."""
    if not state.is_serving:
        return False
    shares_differ = any(
        process.limit != share for process, share in zip(state.processes, state.plan.shares, strict=True)
    )
    return bool(state.retiring) or shares_differ or any(w.alive and w.applied < w.n for w in state.workers)
