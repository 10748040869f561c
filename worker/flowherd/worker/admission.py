"""Admission: may a waiting attempt start now, and if not, why and until when? Pure.

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
from typing import TYPE_CHECKING, NamedTuple, Protocol

from flowherd.worker.pacing import claimable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from flowherd.model import Activity
    from flowherd.worker.attempt import Attempt

COURTESY_S = 0.25


class Profile(Protocol):
    """What is known of activities by their name."""

    @property
    def busy_mean_s(self) -> float:
        """Seconds of this process that a recent activity took, on average."""
        ...

    def blocks(self, name: str) -> bool:
        """It has lately kept the loop for so long that its neighbours felt it."""
        ...


class Catalog(Protocol):
    """The hosted activities."""

    @property
    def has_isolates(self) -> bool:
        """Handlers can run in isolates here."""
        ...

    def limit_s(self, activity: Activity) -> float:
        """Seconds its handler may take."""
        ...

    def runs_on_loop(self, name: str) -> bool:
        """Its handler shares the event loop with others."""
        ...


class Obstacle(NamedTuple):
    """Why an attempt waits, and when to look again at the latest: monotonic seconds."""

    reason: str
    until: float = inf
    is_for_all: bool = False  # nothing else may start either


class Crowd:
    """How many attempts of a worker are suspects, by what that means for the others."""

    __slots__ = ("alone", "apart", "waiting_to_be_alone")

    def __init__(self) -> None:
        self.alone = self.apart = self.waiting_to_be_alone = 0


class Admission:
    """Reads the attempts of one worker; remembers which names have been started, and whose courtesy has been used.

    Args:
        profile: of the activities.
        catalog: the same registry that the executors use.
        suspects_at_once: how many suspects may be in isolates at the same time.

    """

    def __init__(self, profile: Profile, catalog: Catalog, suspects_at_once: int) -> None:
        self._profile = profile
        self._catalog = catalog
        self._suspects_at_once = suspects_at_once
        self._started: set[str] = set()
        self._courtesy_until: dict[str, float] = {}

    def note_started(self, name: str) -> None:
        """An activity of this name has been started here: others of its name need not wait for it."""
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
        """It may keep the loop: it lately did, or nobody knows yet."""
        if name in self._started and not self._profile.blocks(name):
            return False
        return self._catalog.runs_on_loop(name)

    def order(self, activities: Iterable[Activity], charged: Iterable[str]) -> list[Activity]:
        """A batch in the order in which it should start: light ones, heavy ones, suspects."""
        suspects = frozenset(charged)
        return sorted(activities, key=lambda one: (one.activity_id in suspects, self.is_heavy(one.name)))

    def obstacle(
        self, attempt: Attempt, active: Collection[Attempt], crowd: Crowd, now: float
    ) -> Obstacle | None:
        """What holds back an attempt for which a slot is free; None for nearly all.

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
            if crowd.apart < self._suspects_at_once:
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

    def room(self, crowd: Crowd, *, suspects_are_about: bool) -> int:
        """How many more activities this process could start soon."""
        if crowd.alone or crowd.waiting_to_be_alone:
            return 0
        if suspects_are_about and not self._catalog.has_isolates:
            return 1  # what is claimed beside a suspect would lose an attempt with it
        return claimable(self._profile.busy_mean_s)
