"""Whether the host is well enough for its service manager to leave it alone; it looks, and tells nobody."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from flowherd.ledger import Cell, Claim, Clock, Life
from flowherd_supervisor.core.state import Mode, Phase

if TYPE_CHECKING:
    from flowherd.ledger import Ledger, Segment
    from flowherd_supervisor.core.state import State as Brain

RECENT_S = 15.0  # polls may fail for so long before that means anything
RARE_S = 300.0  # how far apart polls may be that all were answered: --poll-interval-max can be long


def is_well(state: Brain, ledger: Ledger, now: float, woke_at: float = -inf) -> bool:
    """Whether a process is ready and its polls are answered, or there is a reason for none.

    A host that was frozen until `woke_at` has polled as little as it has done anything else (faults.md N4).

    There are four reasons: a stop that ends by itself, polling that was paused, slots that are all taken, and
    results that wait for the engine: a restart would lose those, and cures no engine.
    """
    if state.mode is not Mode.SERVING:
        return True
    if not any(process.phase is Phase.RUNNING for process in state.workers):
        return False
    if not state.polling:
        return True
    live = [segment for segment in ledger.segments if segment.life is Life.LIVE and segment.readable]
    return any(_gets_work(segment, now, woke_at) or _is_excused(segment) for segment in live)


def _gets_work(segment: Segment, now: float, woke_at: float) -> bool:
    good_at = segment.clock(Clock.LAST_GOOD_POLL)
    failed = segment.clock(Clock.LAST_BAD_POLL) > good_at
    return now - max(good_at, woke_at) < (RECENT_S if failed else RARE_S)


def _is_excused(segment: Segment) -> bool:
    limit = segment.get(Cell.LIMIT)
    is_full = limit > 0 and segment.get(Cell.RUNNING) >= limit
    return is_full or any(record.claim is Claim.REPORTING for record in segment.records())
