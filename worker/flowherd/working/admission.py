"""Which claimed activity may start now, beside which others; it starts nothing and counts no slots."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flowherd.core.pacing import claimable
from flowherd.ledger import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flowherd.activity import Activity
    from flowherd.working.attempt import Attempt, Tools
    from flowherd.working.occupancy import Occupancy

NEIGHBOURS_GET_S = 1.0  # what an activity that blocks the loop waits at most for those beside it


class Admission:
    """Reads the worker's table; two kinds of activities are kept apart from the others.

    A suspect, with which a process has died before, runs alone where there are no isolates: its next victim would
    be a neighbour. What blocks the loop lets its light neighbours end first, for a while.

    Args:
        tools: who knows suspects and blockers.
        held: what the worker owes the engine, by activity id.
        waiting: of these, what has no slot yet.
        occupancy: which handlers hold a slot.

    """

    def __init__(
        self,
        tools: Tools,
        held: Mapping[str, Attempt],
        waiting: Mapping[str, Attempt],
        occupancy: Occupancy,
    ) -> None:
        self._tools = tools
        self._held = held
        self._waiting = waiting
        self._occupancy = occupancy
        self._alone = 0

    @property
    def room(self) -> int:
        """How many more activities could start soon.

        None while one waits for its neighbours to end, since more of them would only have it wait longer,
        or while a suspect runs alone.
        """
        apart = any(self.blocks(attempt) or attempt.is_alone for attempt in self._waiting.values())
        if apart or self._alone:
            return 0
        if self._tools.suspects.are_about and not self._tools.runner.has_isolates:
            return 1  # what is claimed beside a suspect would lose an attempt with it
        return claimable(self._tools.meter.busy_mean_s)

    def enter(self, attempt: Attempt) -> bool:
        """Whether an attempt starts now; if so, `leave` must follow when its handler has ended."""
        if not self._may_start(attempt):
            return False
        self._alone += attempt.is_alone
        return True

    def leave(self, attempt: Attempt) -> None:
        """The handler of an attempt that had entered has ended."""
        self._alone -= attempt.is_alone

    def _may_start(self, attempt: Attempt) -> bool:
        """Not while an earlier attempt is a zombie, nor beside a suspect that runs alone."""
        zombies = self._occupancy.zombies
        if attempt.id in zombies or self._alone:
            return False
        if attempt.is_alone:
            others = (waiting for waiting in self._waiting.values() if not waiting.is_alone)
            return not zombies and not any(self._running()) and not any(others)
        if not self.blocks(attempt) or time.monotonic() - attempt.claimed_at >= NEIGHBOURS_GET_S:
            return True
        on_loop = self._tools.runner.runs_on_loop
        light = (other for other in self._running() if not other.is_apart and not self.blocks(other))
        return not any(on_loop(other.activity.name) for other in light)

    def blocks(self, attempt: Attempt) -> bool:
        """Whether activities of its name keep the loop for long, where it is run there."""
        return not attempt.is_apart and self._tools.meter.blocks(attempt.activity.name)

    def danger(self, activity: Activity) -> tuple[bool, bool]:
        """What may take the process down starts last, and what keeps the loop for long before that."""
        suspect = bool(self._tools.suspects.charges(activity.activity_id).count)
        return suspect, self._tools.meter.blocks(activity.name)

    def _running(self) -> Iterator[Attempt]:
        """Those whose handler is at work at this moment."""
        for attempt in self._held.values():
            if attempt.state is State.RUNNING and attempt.run is not None and not attempt.run.has_ended:
                yield attempt
