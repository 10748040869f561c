"""Admission: creates attempts from claimed activities, and decides whether one may start, or why not yet. Pure.

Attempts start in the order of their claims. Four things hold one back:

    no slot            all slots are taken
    a predecessor      the handler of an earlier claim of the same activity still runs
    a suspect          a process has died while it ran: it runs in an isolate, of at most `suspects_at_once`, or without
                       isolates alone in this process
    courtesy           an activity that is known to block the loop, or has never run here, lets light handlers that have
                       just begun end first: once for its name, for at most COURTESY_S
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

from flowherd.activities_and_outcomes import Failed
from flowherd.counted import counted
from flowherd.errors import LedgerFull
from flowherd.worker.attempt import Attempt

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from flowherd.activities_and_outcomes import Activity
    from flowherd.worker.attempt_table_types import Catalog, History, Profile, Records, Rules

COURTESY_S = 0.25
MOST = 100  # activities per poll (protocol.md §4)
SOON_STARTED_S = 0.2  # activities that could not begin within this time are left to siblings


class Obstacle(NamedTuple):
    """The reason why an attempt waits, and the latest time to check again, in monotonic seconds."""

    reason: str
    until: float = inf
    is_for_all: bool = False  # no other attempt may start either


class Crowd:
    """Counts of the suspects: running alone, running in isolates, and waiting to run alone."""

    __slots__ = ("alone", "apart", "waiting_to_be_alone")

    def __init__(self) -> None:
        self.alone = self.apart = self.waiting_to_be_alone = 0


class Admission:
    """Admits the attempts of one worker; tracks which activity names have run, and which have used their courtesy.

    Args:
        rules: the rules for all attempts.
        records: the ledger's records; each attempt gets one first.
        catalog: the hosted activities.
        profile: the measurements of activities.
        history: the activities that were running when a process died.

    """

    def __init__(
        self, rules: Rules, records: Records, catalog: Catalog, profile: Profile, history: History
    ) -> None:
        self._rules = rules
        self._records = records
        self._catalog = catalog
        self._profile = profile
        self._history = history
        self._started: set[str] = set()
        self._courtesy_until: dict[str, float] = {}

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
        if self._history.any_charged and self._history.is_charged(attempt.id):
            attempt.is_suspect = True
            attempt.is_apart = self._catalog.has_isolates
            attempt.is_alone = not attempt.is_apart
        return attempt

    def note_started(self, name: str) -> None:
        """Notes that an activity of this name has started here, so that it is no longer unknown."""
        if name not in self._started and self._catalog.runs_on_loop(name):
            self._started.add(name)

    def note_ended(self, name: str, others: Iterable[Attempt]) -> None:
        """Notes the end of an attempt; after the last of its name, the name may use a new courtesy."""
        if (
            self._courtesy_until
            and name in self._courtesy_until
            and not any(one.activity.name == name for one in others)
        ):
            del self._courtesy_until[name]

    def is_heavy(self, name: str) -> bool:
        """True if the activity may block the loop: it did lately, or has not run yet."""
        if name in self._started and not self._profile.blocks(name):
            return False
        return self._catalog.runs_on_loop(name)

    def order(self, activities: Sequence[Activity]) -> Sequence[Activity]:
        """Returns a batch in the order to start: light activities, heavy ones, suspects."""
        is_heavy = {name: self.is_heavy(name) for name in {one.name for one in activities}}
        if self._history.any_charged:
            is_charged = self._history.is_charged
            return sorted(activities, key=lambda one: (is_charged(one.activity_id), is_heavy[one.name]))
        if len(is_heavy) > 1:
            return sorted(activities, key=lambda one: is_heavy[one.name])
        return activities

    def obstacle(
        self, attempt: Attempt, active: Collection[Attempt], crowd: Crowd, now: float
    ) -> Obstacle | None:
        """Returns the obstacle to an attempt for which a slot is free; None for nearly all.

        Args:
            attempt: an attempt that is WAITING.
            active: the attempts that hold a slot.
            crowd: the counts of suspects.
            now: monotonic seconds.

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
        return self._courtesy(attempt, active, now) if self.is_heavy(attempt.activity.name) else None

    def _courtesy(self, attempt: Attempt, others: Collection[Attempt], now: float) -> Obstacle | None:
        name = attempt.activity.name
        young = [one.begun_at or now for one in others if self._feels_it(one, now)]
        if not young:
            return None
        until = self._courtesy_until.setdefault(name, now + COURTESY_S)
        if now >= until:
            return None
        return Obstacle("light neighbours that have just begun go first", min(until, max(young) + COURTESY_S))

    def _feels_it(self, other: Attempt, now: float) -> bool:
        """True for a light handler on the loop that may end within the courtesy."""
        if other.is_apart or not other.is_held or (other.begun_at and now - other.begun_at >= COURTESY_S):
            return False
        name = other.activity.name
        return self._catalog.runs_on_loop(name) and not self._profile.blocks(name)

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
