"""Admission: creates attempts from claimed activities, and decides whether one may start, or why not yet. Pure.

Attempts start in the order of their claims. Three things hold one back, and once it has a slot, a permit:

    no slot            all slots are taken
    a predecessor      the handler of an earlier claim of the same activity still runs
    a suspect          it may have ended a process: it runs in an isolate, of at most `suspects_at_once`, or without
                       isolates alone in this process
    a permit           `max_concurrent`, and the CPUs for moved activities: see `flowherd.execution.permit_queues`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from flowherd.activities_and_outcomes import Failed
from flowherd.counted import counted
from flowherd.errors import LedgerFull
from flowherd.worker.attempt import Attempt
from flowherd.worker.poll_batch_size import MOST

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from flowherd.activities_and_outcomes import Activity
    from flowherd.worker.attempt_table_types import Catalog, History, Profile, Records, Rules

SOON_STARTED_S = 0.2  # activities that could not begin within this time are left to siblings


class Obstacle(NamedTuple):
    """The reason why an attempt waits."""

    reason: str
    is_for_all: bool = False  # no other attempt may start either


class Crowd:
    """Counts of the suspects: running alone, running in isolates, and waiting to run alone."""

    __slots__ = ("alone", "apart", "waiting_to_be_alone")

    def __init__(self) -> None:
        self.alone = self.apart = self.waiting_to_be_alone = 0


class Admission:
    """Admits the attempts of one worker.

    Args:
        rules: the rules for all attempts.
        records: the ledger's records; each attempt gets one first.
        catalog: the hosted activities.
        profile: the measurements of activities.
        history: the activities that may have ended a process.

    """

    def __init__(
        self, rules: Rules, records: Records, catalog: Catalog, profile: Profile, history: History
    ) -> None:
        self._rules = rules
        self._records = records
        self._catalog = catalog
        self._profile = profile
        self._history = history

    def attempt_of(self, activity: Activity, asked_at: float) -> Attempt | Failed:
        """Creates the record first, so that the keeper knows of the claim if this process dies, then the attempt."""
        timeout_s = activity.timeout_s
        lease_s = self._rules.default_lease_s if timeout_s is None else timeout_s
        try:
            index, sequence = self._records.claim(activity, now=asked_at, lease_s=lease_s)
        except LedgerFull as error:
            return Failed("WORKER_OVERLOADED", f"no room for this activity: {error}", retryable=True)
        limit_s = self._catalog.limit_s(activity)
        attempt = Attempt(activity, index, sequence, claimed_at=asked_at, lease_s=lease_s, limit_s=limit_s)
        attempt.records = attempt.who.history = self._records
        if self._history.any_suspects and self._history.is_suspect(attempt.id):
            attempt.is_suspect = True
            attempt.is_apart = self._catalog.has_isolates
            attempt.is_alone = not attempt.is_apart
        return attempt

    def rivals(self, name: str) -> Collection[str]:
        """See `Catalog.rivals`."""
        return self._catalog.rivals(name)

    def order(self, activities: Sequence[Activity]) -> Sequence[Activity]:
        """Returns a batch in the order to start: suspects come last."""
        if not self._history.any_suspects:
            return activities
        return sorted(activities, key=lambda one: self._history.is_suspect(one.activity_id))

    def obstacle(self, attempt: Attempt, active: Collection[Attempt], crowd: Crowd) -> Obstacle | None:
        """Returns the obstacle to an attempt for which a slot is free; None for nearly all.

        Args:
            attempt: an attempt that is WAITING.
            active: the attempts that hold a slot.
            crowd: the counts of suspects.

        """
        if crowd.alone:
            return Obstacle("a suspect has this process for itself", is_for_all=True)
        if attempt.is_alone:
            return (
                Obstacle(f"it runs alone, after the end of {counted(len(active), 'other')}")
                if active
                else None
            )
        if attempt.is_apart:
            if crowd.apart < self._rules.suspects_at_once:
                return None
            return Obstacle(f"{crowd.apart} suspects run in isolates already")
        return None

    def room(self, crowd: Crowd) -> int:
        """Returns the number of activities that a poll may bring, limited by records, suspects and the loop's load."""
        free = self._records.free
        if crowd.alone or crowd.waiting_to_be_alone:
            return 0
        if self._history.are_about and not self._catalog.has_isolates:
            return min(free, 1)  # activities claimed beside a suspect could lose an attempt with it
        return min(free, claimable(self._profile.busy_mean_s))


def claimable(busy_mean_s: float) -> int:
    """Returns the number of activities that this loop can start soon; siblings get the rest.

    Args:
        busy_mean_s: the recent mean of seconds that an activity occupied the loop.

    """
    return MOST if busy_mean_s <= 0 else max(1, int(min(MOST, SOON_STARTED_S / busy_mean_s)))
