"""The attempts that have not begun: their order, the reason for each wait, and the end of a wait. Pure."""

from __future__ import annotations

from dataclasses import dataclass
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
        waited_s: seconds since its claim.
        reason: the reason for the wait.
        is_new: True when it has not been logged yet.
        is_over: True when no progress explains the wait any more.

    """

    waited_s: float
    reason: str
    is_new: bool
    is_over: bool


class Backlog:
    """The attempts that wait for a slot, in the order of their claims, and those that wait for permits.

    Args:
        admission: finds the obstacle to an attempt.
        slots: the worker's slots.
        warn_after_s: seconds after which a waiting attempt is logged.

    Attributes:
        queue: the attempts that wait for a slot, by activity id, in order.
        crowd: the counts of suspects.

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

    def waiting(self) -> list[Attempt]:
        """Returns the attempts that wait for a slot."""
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

    def next_start(self) -> Attempt | None:
        """Returns the first attempt that may start now, or None."""
        if not self.queue or not self._slots.is_any_free:
            return None
        for attempt in self.queue.values():
            obstacle = self.obstacle(attempt)
            if obstacle is None:
                return attempt
            if obstacle.is_for_all:
                break
        return None

    def started(self, attempt: Attempt) -> None:
        """Notes that an attempt has a slot."""
        del self.queue[attempt.id]
        if attempt.is_suspect:
            self.crowd.waiting_to_be_alone -= attempt.is_alone
            self.crowd.alone += attempt.is_alone
            self.crowd.apart += attempt.is_apart

    def begun(self, attempt: Attempt) -> None:
        """Notes the first step of an attempt's handler."""
        if self._wait_for_permits:
            self._wait_for_permits.discard(attempt)

    def left(self, attempt: Attempt) -> None:
        """Notes that an attempt has released its slot."""
        if self._wait_for_permits:
            self._wait_for_permits.discard(attempt)
        if attempt.is_suspect:
            self.crowd.alone -= attempt.is_alone
            self.crowd.apart -= attempt.is_apart
        if self._detached and self._detached.get(attempt.id) is attempt:
            del self._detached[attempt.id]

    def closed(self, attempt: Attempt) -> None:
        """Notes the end of an attempt's claim; its handler may still run."""
        if self.queue:
            self.remove(attempt)
        if attempt.pair == DETACHED:
            self._detached[attempt.id] = attempt

    def waits_for_permit(self, attempt: Attempt) -> None:
        """Notes that an attempt has a slot, while others of its name have all permits."""
        self._wait_for_permits.add(attempt)

    def obstacle(self, attempt: Attempt) -> Obstacle | None:
        """Returns the obstacle between an attempt and a free slot, None when it may start."""
        if self._detached and attempt.id in self._detached:
            return Obstacle("the handler of an earlier claim of it has not ended")
        return self._admission.obstacle(attempt, self._slots.attempts, self.crowd)

    def reason(self, attempt: Attempt) -> str:
        """Returns the reason why an attempt has not begun, for logs and status."""
        if attempt.pair == ADMITTED:
            if attempt in self._wait_for_permits:
                return "others have all permits: those of its max_concurrent, or of the CPUs for moved activities"
            return "it has a slot, but its loop, thread or isolate has not begun it"
        if not self._slots.is_any_free:
            return "all slots are taken"
        obstacle = self.obstacle(attempt)
        return "it is about to start" if obstacle is None else obstacle.reason

    def overdue(self, attempt: Attempt, now: float, begun_at: Callable[[str], float]) -> Overdue:
        """Evaluates the wait of a due attempt, and sets its next deadline.

        A wait is over after the attempt's limit. A wait for a permit goes on while others of its name begin anywhere on
        the host: the next one begins at the latest when the limit of the last one is over.

        Args:
            attempt: an attempt that is WAITING or ADMITTED.
            now: monotonic seconds.
            begun_at: returns the start of the newest running attempt of a name.

        """
        waited_s, limit_at = now - attempt.claimed_at, attempt.claimed_at + attempt.limit_s
        is_new, attempt.was_named = not attempt.was_named, True
        if attempt in self._wait_for_permits and limit_at <= now:
            limit_at = begun_at(attempt.activity.name) + 2 * attempt.limit_s
        attempt.due_at = limit_at
        return Overdue(waited_s, self.reason(attempt), is_new, limit_at <= now)
