"""The rules for hangs: an activity past its limit and the grace, a keeper that no longer scans.

Both must hold by the ledger's times and by the supervisor's own observation while awake, so that a freeze of the whole
host is not mistaken for a hang (faults.md N4).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from flowherd.awake_clock import STEP_S
from flowherd_supervisor.core.state import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowherd_supervisor.core.state import ProcessState

HANG_MARGIN_S = 0.5  # the worker itself reports at limit + grace: a loop that still runs must be first
KEEPER_LATE_S = 2.0
IDLE_KEEPER_LATE_S = 10.0  # without a lease only pages and orders wait for it, and scans are rare
KEEPER_LATE_AT_LEAST_S = 1.0  # a scan may take this long under load


@dataclass(frozen=True, slots=True)
class PastLimit:
    """A running activity that is past its limit.

    Attributes:
        sequence: sequence of its record.
        late_s: seconds since the limit, by the ledger's times.
        seen_s: awake seconds since the supervisor first saw it past its limit.
        is_on_loop: True if its handler is on the event loop.

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
    """Returns the overdue activity on the event loop, else the one furthest past its limit, None if none is overdue."""
    patience_s = grace_s + HANG_MARGIN_S
    overdue = [one for one in past_limit if min(one.late_s, one.seen_s) > patience_s]
    return max(overdue, key=lambda one: (one.is_on_loop, one.late_s), default=None)


def keeper_late_s(
    keeper: ProcessState, *, tick_age_s: float, seen_s: float, awake_s: float, shortest_lease_s: float
) -> float | None:
    """Returns the seconds by which a keeper is late with its scan, None if that is still tolerated.

    Args:
        keeper: its state.
        tick_age_s: seconds since its last scan, by the ledger's tick.
        seen_s: awake seconds since the supervisor first saw that tick.
        awake_s: the current time on the supervisor's awake clock.
        shortest_lease_s: the shortest lease held, infinity for none.

    """
    if keeper.phase is not Phase.RUNNING or keeper.ready_at is None:
        return None
    seen_s += STEP_S  # it may have moved a step ago
    late_s = min(tick_age_s, awake_s - keeper.ready_at, seen_s)
    allowed_s = max(min(KEEPER_LATE_S, shortest_lease_s / 3), KEEPER_LATE_AT_LEAST_S)
    if shortest_lease_s == inf:
        allowed_s = IDLE_KEEPER_LATE_S
    return late_s if late_s > allowed_s else None
