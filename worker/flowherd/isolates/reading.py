"""Reads a descriptor on the loop in bounded turns, with pauses where somebody floods it; it knows no contents."""

from __future__ import annotations

import asyncio
from enum import Enum
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE_S = 0.02  # the other end waits meanwhile, once what is between us is full


class Turn(Enum):
    """What a turn has come to."""

    AGAIN = "again"  # when there is something
    PAUSE = "pause"  # others first: it has taken its share of the loop
    OVER = "over"


class Share:
    """How many lines of the log one process may cost the loop: so many, then a pause.

    Args:
        most: within `PAUSE_S`.
        clock: monotonic seconds.

    """

    def __init__(self, most: int = 50, clock: Callable[[], float] = monotonic) -> None:
        self._most = most
        self._clock = clock
        self._since = 0.0
        self._taken = 0

    @property
    def left(self) -> int:
        """How many are left now."""
        now = self._clock()
        if now - self._since >= PAUSE_S:
            self._since, self._taken = now, 0
        return self._most - self._taken

    def take(self) -> None:
        """One less; below zero when somebody could not stop in time."""
        self._taken += 1


class Reading:
    """Calls `turn` on the running loop whenever there is something to read, until it is over.

    Args:
        fd: does not block; must stay open until `stop`.
        turn: reads a bounded piece.

    """

    def __init__(self, fd: int, turn: Callable[[], Turn]) -> None:
        self._fd = fd
        self._turn = turn
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False
        self._loop.add_reader(fd, self._take_turn)

    def stop(self) -> None:
        """Reads no more."""
        if not self._is_over:
            self._is_over = True
            self._loop.remove_reader(self._fd)
            if self._timer is not None:
                self._timer.cancel()

    def _take_turn(self) -> None:
        match self._turn():
            case Turn.OVER:
                self.stop()
            case Turn.PAUSE if not self._is_over:
                self._loop.remove_reader(self._fd)
                self._timer = self._loop.call_later(PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._fd, self._take_turn)
        self._take_turn()  # of what it has read before its pause nothing tells the loop
