"""The rules for hangs: an activity that runs past its limit and the grace, a keeper that no longer looks; pure.

Both are judged by the ledger's times and by how long the supervisor has seen it so while it was awake itself: a freeze
of the whole host is held against nobody (faults.md N4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowherd.awake_clock import STEP_S
from flowherd_supervisor.core.state import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowherd_supervisor.core.state import ProcessState

HANG_MARGIN_S = 0.5  # the worker itself reports at limit + grace: a loop that still turns must win
KEEPER_LATE_S = 2.0
KEEPER_LATE_AT_LEAST_S = 1.0  # under load a scan may wait this long without anything being wrong


@dataclass(frozen=True, slots=True)
class PastLimit:
    """An activity at work whose limit is over.

    Attributes:
        sequence: names its record.
        late_s: seconds since the limit was over, by the ledger's times.
        seen_s: awake seconds since the supervisor first saw it past its limit.
        is_on_loop: its handler keeps the event loop.

    """

    sequence: int
    name: str
    activity_id: str
    limit_s: float
    late_s: float
    seen_s: float
    is_on_loop: bool = False
    workflow_id: str = ""
    key: str = ""


def guilty_of_hang(past_limit: Iterable[PastLimit], grace_s: float) -> PastLimit | None:
    """The activity that hangs a process: of the overdue ones that on the loop, else the one longest past its limit."""
    patience_s = grace_s + HANG_MARGIN_S
    overdue = [one for one in past_limit if min(one.late_s, one.seen_s) > patience_s]
    return max(overdue, key=lambda one: (one.is_on_loop, one.late_s), default=None)


def keeper_late_s(
    keeper: ProcessState, *, tick_age_s: float, seen_s: float, awake_s: float, shortest_lease_s: float
) -> float | None:
    """Seconds that a keeper is late with its scan of held leases, None while it is not to be replaced for that.

    Args:
        keeper: the brain's.
        tick_age_s: since it looked last, by its own word.
        seen_s: awake seconds since the supervisor first saw that word.
        awake_s: now, on the supervisor's awake clock.
        shortest_lease_s: of those that are held.

    """
    if keeper.phase is not Phase.RUNNING or keeper.ready_at is None:
        return None
    seen_s += STEP_S  # it may have moved a step ago
    late_s = min(tick_age_s, awake_s - keeper.ready_at, seen_s)
    allowed_s = max(min(KEEPER_LATE_S, shortest_lease_s / 3), KEEPER_LATE_AT_LEAST_S)
    return late_s if late_s > allowed_s else None
