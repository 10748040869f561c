"""Queues of attempts that wait for permits: of their activity, among the suspects, or among the moved blockers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from flowherd.ledger.permits import NotNow, Permit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowherd.ledger.permits import Demand, Permits
    from flowherd.worker.attempt import Attempt


class _Entry(NamedTuple):
    """An attempt that waits; entries are ordered by their first two fields."""

    turn: int
    number: int
    attempt: Attempt
    demand: Demand
    begin: Callable[[], None]


@dataclass(slots=True)
class _Queue:
    """Attempts that wait for permits of one pool: activities take turns, attempts of one keep their order."""

    first: _Entry | None = None  # whose turn it is: it may hold permits already, so nobody passes it
    waiting: list[_Entry] = field(default_factory=list)
    turn: int = 0  # of the first
    turns: dict[str, int] = field(default_factory=dict)  # of the last entry of each activity

    def __len__(self) -> int:
        return len(self.waiting) + (self.first is not None)

    def look(self) -> _Entry | None:
        """Returns the first entry, None when there is none."""
        if self.first is None and self.waiting:
            self.first = heappop(self.waiting)
            self.turn = self.first.turn
        return self.first


class PermitQueues:
    """All queues by pool; an attempt may need permits of several, and holds its permits until it has ended.

    All methods must be called on the worker's loop.

    Attributes:
        are_used: True when any attempt has ever entered a queue.

    """

    def __init__(self, permits: Permits) -> None:
        self.are_used = False
        self._permits = permits
        self._queues: dict[str, _Queue] = {}
        self._inside: dict[Attempt, list[Permit]] = {}
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        waiting = sum(map(len, self._queues.values()))
        return f"<PermitQueues [{len(self._inside)} inside, {waiting} waiting]>"

    def enter(self, attempt: Attempt, name: str, demand: Demand, begin: Callable[[], None]) -> bool:
        """Calls `begin` when there are permits, if the attempt still waits then; returns False when it has to wait.

        Args:
            attempt: the attempt.
            name: its activity.
            demand: the permits that it needs.
            begin: begins it.

        """
        self.are_used = True
        queue = self._queues.setdefault(demand.pool, _Queue())
        turn = queue.turns[name] = max(queue.turn, queue.turns.get(name, -1) + 1)
        heappush(queue.waiting, _Entry(turn, next(self._numbers), attempt, demand, begin))
        if len(queue) > 1:
            return False
        self.proceed()
        return not queue

    def leave(self, attempt: Attempt) -> None:
        """Releases the permits of an attempt that has ended, or was cancelled while it waited."""
        for permit in self._inside.pop(attempt, ()):
            self._permits.give_back(permit)
        self.proceed()

    def proceed(self) -> None:
        """Begins all attempts that can begin now; called when a permit may have been released."""
        if not self._queues:
            return
        waits = [self._proceed_with(pool) for pool in list(self._queues)]
        self._permits.say_waiting(frozenset(self._queues))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delays := [wait.again_in_s for wait in waits if wait is not None and wait.again_in_s is not None]:
            self._timer = asyncio.get_running_loop().call_later(min(delays), self.proceed)

    def _proceed_with(self, pool: str) -> NotNow | None:
        """Begins attempts in order; returns NotNow when permits run out, None when the queue is empty.

        An attempt may end at once in `begin` and others of its pool may enter, so the queue is looked up each time.
        """
        while (queue := self._queues.get(pool)) is not None and (entry := queue.look()) is not None:
            if entry.attempt.may_begin and (not_now := self._take(entry)) is not None:
                return not_now
            queue.first = None
            if entry.attempt.may_begin:
                entry.begin()
        self._queues.pop(pool, None)
        return None

    def _take(self, entry: _Entry) -> NotNow | None:
        """Takes what the first of a queue still lacks, and keeps it; returns NotNow when it lacks something still."""
        demand, held = entry.demand, self._inside.setdefault(entry.attempt, [])
        mine = [permit.number for permit in held if permit.pool == demand.pool]
        while len(mine) < demand.needed:
            numbers: Sequence[int] = (mine[-1] + 1,) if mine else demand.starts
            match self._permits.take(demand.pool, numbers):
                case NotNow() as not_now:
                    return not_now
                case Permit() as permit:
                    held.append(permit)
                    mine.append(permit.number)
        return None
