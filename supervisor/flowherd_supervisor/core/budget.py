"""Splits the host's concurrency over its processes, and moves shares without ever exceeding it; pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowherd_supervisor.core.state import Mode

if TYPE_CHECKING:
    from flowherd_supervisor.core.events import SlotsSeen
    from flowherd_supervisor.core.state import Seat, State
    from flowherd_supervisor.core.transition import Turn


def rebalance(turn: Turn) -> None:
    """Moves limits towards the even split: first down, then up by what is surely free.

    A process is charged what it may still be using, not what it was told: it keeps its old limit until it has
    applied the new one, and what retires is charged what it holds. A raise within that costs nobody anything.
    """
    state = turn.state
    if state.mode is not Mode.SERVING:
        return
    for seat, share in zip(state.seats, state.plan.shares, strict=True):
        if seat.limit > share:
            turn.grant(seat, share)
    free = state.plan.concurrency - sum(worker.charge for worker in turn.state.workers)
    for seat, share in zip(turn.state.seats, state.plan.shares, strict=True):
        limit = min(share, seat.charge + max(free, 0))
        if limit > seat.limit:
            turn.grant(seat, limit)
            free -= max(limit - seat.charge, 0)


def slots_seen(turn: Turn, seat: Seat, event: SlotsSeen) -> None:
    """Takes note of what a worker has applied and holds."""
    ceiling = seat.limit if event.applied >= seat.n else seat.ceiling
    turn.put(replace(seat, applied=event.applied, held=event.held, ceiling=ceiling))


def in_transit(state: State) -> bool:
    """Whether slots are on their way from one process to another, so that the ledger must be looked at."""
    if state.mode is not Mode.SERVING:
        return False
    shares_differ = any(
        seat.limit != share for seat, share in zip(state.seats, state.plan.shares, strict=True)
    )
    return bool(state.retiring) or shares_differ or any(w.alive and w.applied < w.n for w in state.workers)
