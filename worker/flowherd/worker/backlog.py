"""The attempts that have not begun: in which order they start, why one waits, and when its wait is over. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from flowherd.worker.admission import Crowd, Obstacle
from flowherd.worker.attempt import ADMITTED, DETACHED

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.worker.admission import Admission
    from flowherd.worker.attempt import Attempt
    from flowherd.worker.slots import Slots


@dataclass(frozen=True, slots=True)
class Overdue:
    """An attempt that has not begun for too long.

    Attributes:
        waited_s: since its claim.
        reason: why.
        is_new: nobody has been told yet.
        is_over: no progress explains the wait any more.

    """

    waited_s: float
    reason: str
    is_new: bool
    is_over: bool


class Backlog:
    """The attempts that wait for a slot, in the order of their claims, and whatever else keeps attempts from beginning.

    Args:
        admission: says what holds an attempt back.
        slots: of the worker.
        warn_after_s: seconds.

    Attributes:
        queue: what waits for a slot, by the activity's id, in order.
        crowd: how many attempts are suspects.

    """

    def __init__(self, admission: Admission, slots: Slots, warn_after_s: float) -> None:
        self._admission = admission
        self._slots = slots
        self._warn_after_s = warn_after_s
        self.queue: dict[str, Attempt] = {}
        self._detached: dict[str, Attempt] = {}
        self._wait_for_permits: set[Attempt] = set()
        self.crowd = Crowd()

    def __repr__(self) -> str:
        return f"<Backlog [{len(self.queue)} waiting, {len(self._detached)} detached]>"

    @property
    def detached(self) -> int:
        """Attempts whose handler outlives its claim."""
        return len(self._detached)

    def waiting(self) -> list[Attempt]:
        """The attempts that wait for a slot."""
        return list(self.queue.values())

    def add(self, attempt: Attempt) -> None:
        """Notes that an attempt waits for a slot."""
        self.queue[attempt.id] = attempt
        self.crowd.waiting_to_be_alone += attempt.is_alone
        attempt.due_at = attempt.claimed_at + min(self._warn_after_s, attempt.limit_s)

    def remove(self, attempt: Attempt) -> bool:
        """Notes that an attempt no longer waits for a slot; False if it did not wait."""
        if self.queue.get(attempt.id) is not attempt:
            return False
        del self.queue[attempt.id]
        self.crowd.waiting_to_be_alone -= attempt.is_alone
        return True

    def next_start(self, now: float) -> tuple[Attempt | None, float]:
        """The first that may start now, None for nobody; and when to look again at the latest."""
        again_at = inf
        if not self.queue or not self._slots.is_any_free:
            return None, again_at
        for attempt in self.queue.values():
            obstacle = self.obstacle(attempt, now)
            if obstacle is None:
                return attempt, again_at
            if obstacle.is_for_all:
                break
            again_at = min(again_at, obstacle.until)
        return None, again_at

    def started(self, attempt: Attempt) -> None:
        """Notes that an attempt has a slot."""
        del self.queue[attempt.id]
        if attempt.is_suspect:
            self.crowd.waiting_to_be_alone -= attempt.is_alone
            self.crowd.alone += attempt.is_alone
            self.crowd.apart += attempt.is_apart
        self._admission.note_started(attempt.activity.name)

    def begun(self, attempt: Attempt) -> None:
        """Its handler takes its first step."""
        if self._wait_for_permits:
            self._wait_for_permits.discard(attempt)

    def left(self, attempt: Attempt) -> None:
        """Its slot is free."""
        if self._wait_for_permits:
            self._wait_for_permits.discard(attempt)
        if attempt.is_suspect:
            self.crowd.alone -= attempt.is_alone
            self.crowd.apart -= attempt.is_apart
        self._admission.note_ended(attempt.activity.name, self._slots.attempts)
        if self._detached and self._detached.get(attempt.id) is attempt:
            del self._detached[attempt.id]

    def closed(self, attempt: Attempt) -> None:
        """Nothing is owed about it any more; its handler may not have ended."""
        if self.queue:
            self.remove(attempt)
        if attempt.pair == DETACHED:
            self._detached[attempt.id] = attempt

    def waits_for_permit(self, attempt: Attempt) -> None:
        """Notes that an attempt has a slot, while others of its name have all permits."""
        self._wait_for_permits.add(attempt)

    def obstacle(self, attempt: Attempt, now: float) -> Obstacle | None:
        """The obstacle between an attempt and a free slot."""
        if self._detached and attempt.id in self._detached:
            return Obstacle("the handler of an earlier claim of it has not ended")
        return self._admission.obstacle(attempt, self._slots.attempts, self.crowd, now)

    def reason(self, attempt: Attempt, now: float) -> str:
        """The reason why an attempt has not begun, for logs and status."""
        if attempt.pair == ADMITTED:
            if attempt in self._wait_for_permits:
                return "others of its name have all permits (max_concurrent)"
            return "it has a slot, but its loop, thread or isolate has not begun it"
        if not self._slots.is_any_free:
            return "all slots are taken"
        obstacle = self.obstacle(attempt, now)
        return "it is about to start" if obstacle is None else obstacle.reason

    def overdue(self, attempt: Attempt, now: float, begun_at: Callable[[str], float]) -> Overdue:
        """A judgement on an attempt that is due; sets its next deadline.

        Its wait is over after its limit. One for a permit goes on while others of its name begin, on the whole host:
        the next one begins when the last one's limit is over, at the latest.

        Args:
            attempt: WAITING or ADMITTED.
            now: monotonic seconds.
            begun_at: when the newest one of a name has begun that is at work.

        """
        waited_s, limit_at = now - attempt.claimed_at, attempt.claimed_at + attempt.limit_s
        is_new, attempt.was_named = not attempt.was_named, True
        if attempt in self._wait_for_permits and limit_at <= now:
            limit_at = begun_at(attempt.activity.name) + 2 * attempt.limit_s
        attempt.due_at = limit_at
        return Overdue(waited_s, self.reason(attempt, now), is_new, limit_at <= now)
