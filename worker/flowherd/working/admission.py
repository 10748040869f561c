"""Which claimed activity may start now, beside which others; it starts nothing and counts no slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowherd.ledger import State
from flowherd.working.pacing import claimable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flowherd.model import Activity
    from flowherd.working.attempt import Attempt, Tools
    from flowherd.working.occupancy import Occupancy

BLOCKER_WAITS_S = 1.0  # at most, for those beside what is known to block the loop
UNKNOWN_WAITS_S = 0.25  # ... and beside what has never begun here: it may be the first to block it


class Admission:
    """Reads the worker's table; two kinds of activities are kept apart from the others.

    A suspect, with which a process has died before, runs alone where there are no isolates: its next victim would
    be a neighbour. What blocks the loop lets its light neighbours end first, for a while; so does the first activity
    of a name, since nobody knows yet what it does.

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
        self._known: set[str] = set()
        self._alone = 0

    @property
    def room(self) -> int:
        """How many more activities could start soon.

        None while one waits for its neighbours to end, since more of them would only have it wait longer,
        or while a suspect runs alone.
        """
        apart = any(self.patience_s(attempt) or attempt.is_alone for attempt in self._waiting.values())
        if apart or self._alone:
            return 0
        if not self._tools.runner.has_isolates and self._tools.crash_history.are_about:
            return 1  # what is claimed beside a suspect would lose an attempt with it
        return claimable(self._tools.meter.busy_mean_s)

    def enter(self, attempt: Attempt) -> bool:
        """Whether an attempt starts now; if so, `leave` must follow when its handler has ended."""
        name = attempt.activity.name
        is_ordinary = (
            name in self._known
            and not (attempt.is_suspect or self._alone or self._occupancy.detached)
            and not self._tools.meter.blocks(name)
        )
        if not is_ordinary and not self._may_start(attempt):
            return False
        self._alone += attempt.is_alone
        self._known.add(name)
        return True

    def leave(self, attempt: Attempt) -> None:
        """The handler of an attempt that had entered has ended."""
        self._alone -= attempt.is_alone

    def _may_start(self, attempt: Attempt) -> bool:
        """Not while an earlier attempt is a detached, nor beside a suspect that runs alone."""
        detached = self._occupancy.detached
        if attempt.id in detached or self._alone:
            return False
        if attempt.is_alone:
            others = (waiting for waiting in self._waiting.values() if not waiting.is_alone)
            return not detached and not any(self._running()) and not any(others)
        return not self.patience_s(attempt) or not any(self._light_neighbours())

    def patience_s(self, attempt: Attempt) -> float:
        """How long it lets its light neighbours end before it takes the loop: seconds at most, 0 if it need not."""
        if attempt.is_apart or not attempt.is_patient:
            return 0.0
        name = attempt.activity.name
        if self._tools.meter.blocks(name):
            return BLOCKER_WAITS_S
        return UNKNOWN_WAITS_S if self._is_unknown(name) else 0.0

    def in_order(self, activities: Sequence[Activity]) -> Sequence[Activity]:
        """What may take the process down starts last, before that what keeps the loop for long, then the unknown."""
        names = {activity.name for activity in activities}
        if not self._tools.crash_history.any_charged and not any(
            self._tools.meter.blocks(name) or self._is_unknown(name) for name in names
        ):
            return activities
        return sorted(activities, key=self._danger)

    def _danger(self, activity: Activity) -> tuple[bool, bool, bool]:
        suspect = bool(self._tools.crash_history.charges(activity.activity_id).count)
        return suspect, self._tools.meter.blocks(activity.name), self._is_unknown(activity.name)

    def _is_unknown(self, name: str) -> bool:
        """Whether none of this name has ever begun here, of those that would be on the loop."""
        return name not in self._known and self._tools.runner.runs_on_loop(name)

    def _light_neighbours(self) -> Iterator[Attempt]:
        """Those on the loop that would feel it if somebody kept it."""
        runner, meter = self._tools.runner, self._tools.meter
        for other in self._running():
            name = other.activity.name
            if not other.is_apart and not meter.blocks(name) and runner.runs_on_loop(name):
                yield other

    def _running(self) -> Iterator[Attempt]:
        """Those whose handler is at work at this moment."""
        for attempt in self._held.values():
            if attempt.state is State.RUNNING and attempt.run is not None and not attempt.run.has_ended:
                yield attempt
