"""Queues of attempts that wait for permits: attempts of activities with `max_concurrent`, and suspects."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowherd.ledger.permits import NotNow, Permit

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.ledger.permits import Permits
    from flowherd.worker.attempt import Attempt


@dataclass(slots=True)
class _Queue:
    """Attempts that wait for permits of one activity."""

    limit: int
    waiting: deque[tuple[Attempt, Callable[[], None]]]


class PermitQueues:
    """All queues by name; an attempt may need permits of several, and holds its permits until it has ended.

    All methods must be called on the worker's loop.

    Attributes:
        are_used: True when any attempt has ever entered a queue.

    """

    def __init__(self, permits: Permits) -> None:
        self.are_used = False
        self._permits = permits
        self._queues: dict[str, _Queue] = {}
        self._inside: dict[Attempt, list[Permit]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        waiting = sum(len(queue.waiting) for queue in self._queues.values())
        return f"<PermitQueues [{len(self._inside)} inside, {waiting} waiting]>"

    def enter(self, attempt: Attempt, name: str, limit: int, begin: Callable[[], None]) -> bool:
        """Calls `begin` when there is a permit, if the attempt still waits then; returns False when it has to wait."""
        self.are_used = True
        queue = self._queues.setdefault(name, _Queue(limit, deque()))
        queue.waiting.append((attempt, begin))
        if len(queue.waiting) > 1:
            return False
        self.proceed()
        return not queue.waiting

    def leave(self, attempt: Attempt) -> None:
        """Releases the permits of an attempt that has ended, or was cancelled while it waited."""
        for permit in self._inside.pop(attempt, ()):
            self._permits.give_back(permit)
        self.proceed()

    def proceed(self) -> None:
        """Begins all attempts that can begin now; called when a permit may have been released."""
        if not self._queues:
            return
        waits = [self._proceed_with(name) for name in list(self._queues)]
        self._permits.say_waiting(frozenset(self._queues))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delays := [wait.again_in_s for wait in waits if wait is not None and wait.again_in_s is not None]:
            self._timer = asyncio.get_running_loop().call_later(min(delays), self.proceed)

    def _proceed_with(self, name: str) -> NotNow | None:
        """Begins attempts in order; returns NotNow when permits run out, None when the queue is empty.

        An attempt may end at once in `begin` and others of its name may enter, so the queue is looked up each time.
        """
        while (queue := self._queues.get(name)) is not None and queue.waiting:
            attempt, begin = queue.waiting[0]
            if attempt.may_begin:
                match self._permits.take(name, queue.limit):
                    case NotNow() as not_now:
                        return not_now
                    case Permit() as permit:
                        self._inside.setdefault(attempt, []).append(permit)
                        queue.waiting.popleft()
                        begin()
            else:
                queue.waiting.popleft()
        self._queues.pop(name, None)
        return None
