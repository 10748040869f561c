"""Admission: makes attempts of what polls bring, and says whether one may start now, why not, and until when. Pure.

Attempts start in the order of their claims. Four things hold one back:

    no slot            all are taken
    a predecessor      the handler of an earlier claim of the same activity still runs
    a suspect          a process has died with it before: in an isolate where there are some, at most
                       `suspects_at_once` of them, else alone in this process
    courtesy           what is known to keep the loop for long, or has never run here, lets light neighbours that have
                       just begun end first: once for its name, for at most COURTESY_S
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

from flowherd.activities_and_outcomes import Failed
from flowherd.errors import LedgerFull
from flowherd.worker.attempt import Attempt
from flowherd.worker.poll_batch_size import MOST

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from flowherd.activities_and_outcomes import Activity
    from flowherd.worker.attempt_table_types import Catalog, History, Profile, Records, Rules

COURTESY_S = 0.25
SOON_STARTED_S = 0.2  # work that could not begin for longer is better claimed by a sibling


class Obstacle(NamedTuple):
    """A reason why an attempt waits, and the latest moment to look again: monotonic seconds."""

    reason: str
    until: float = inf
    is_for_all: bool = False  # nothing else may start either


class Crowd:
    """Counts of the attempts that are suspects, by what that means for the others."""

    __slots__ = ("alone", "apart", "waiting_to_be_alone")

    def __init__(self) -> None:
        self.alone = self.apart = self.waiting_to_be_alone = 0


class Admission:
    """Reads the attempts of one worker; remembers which names have been started, and whose courtesy has been used.

    Args:
        rules: for all attempts.
        records: has a record of each attempt before anything else is done with it.
        catalog: the same registry that the executors use.
        profile: of the activities.
        history: the activities with which processes have died.

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
        """The record first: whatever ends this process from now on, the keeper knows of the claim."""
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
        """An activity of this name has been started here: others of its name need not wait for it."""
        if name not in self._started and self._catalog.runs_on_loop(name):
            self._started.add(name)

    def note_ended(self, name: str, others: Iterable[Attempt]) -> None:
        """An attempt has ended: with the last of its name a new courtesy may be asked for."""
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
        """A batch in the order in which it should start: light ones, heavy ones, suspects."""
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
        """The obstacle to an attempt for which a slot is free; None for nearly all.

        Args:
            attempt: WAITING.
            active: the attempts that have a slot.
            crowd: how many of them are alone, and how many apart.
            now: monotonic seconds.

        """
        if crowd.alone:
            return Obstacle("a suspect has this process for itself", is_for_all=True)
        if attempt.is_alone:
            return Obstacle(f"it runs alone, and {len(active)} others have not ended") if active else None
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
        """A light handler on the loop that may end within the courtesy."""
        if other.is_apart or not other.is_held or (other.begun_at and now - other.begun_at >= COURTESY_S):
            return False
        name = other.activity.name
        return self._catalog.runs_on_loop(name) and not self._profile.blocks(name)

    def room(self, crowd: Crowd) -> int:
        """Activities that a poll may bring, as far as records and neighbours allow."""
        free = self._records.free
        if crowd.alone or crowd.waiting_to_be_alone:
            return 0
        if self._history.are_about and not self._catalog.has_isolates:
            return min(free, 1)  # what is claimed beside a suspect would lose an attempt with it
        return min(free, claimable(self._profile.busy_mean_s))


def claimable(busy_mean_s: float) -> int:
    """Activities that a poll may ask for, so that this loop can start them soon and siblings get the rest.

    Args:
        busy_mean_s: seconds of the loop that a recent activity took, on average.

    """
    return MOST if busy_mean_s <= 0 else max(1, min(MOST, int(SOON_STARTED_S / busy_mean_s)))
