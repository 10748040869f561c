"""How many activities a poll asks for while the engine always has more; it polls nothing.

What is claimed and has not begun is of no use to anybody: its lease runs, and a sibling could have begun it. So while
polls come back full and this thread has always something to do, they ask for half as much. When it often has nothing to
do, since a distant engine takes its time, they ask for twice as much.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flowherd.worker.pacing import MOST

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST = 16  # of what does nothing this is a millisecond or two of work; less would be polls instead
BUSY, STARVING = 0.05, 0.1  # shares of the time in which the thread had nothing to do
WINDOW_S = 0.02  # of full polls only, before they are judged


class BatchSize:
    """Learns from polls that came back full.

    Args:
        busy_s: seconds in which the loop's thread has ever had something to do, whether or not it had a CPU for it.
        clock: monotonic seconds.

    Attributes:
        most: what the next poll should ask for at most.

    """

    def __init__(self, busy_s: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._busy_s = busy_s
        self._clock = clock
        self._since: tuple[float, float] | None = None
        self.most = MOST

    def __repr__(self) -> str:
        return f"<BatchSize {self.most}>"

    def found(self, asked: int, found: int) -> None:
        """A poll that had asked for so many has brought so many."""
        if found < max(asked, 1):
            self._since = None
            return
        now = self._clock()
        if self._since is None:
            self._since = now, self._busy_s()
            return
        since, busy_before_s = self._since
        if now - since < WINDOW_S:
            return
        self._since = now, self._busy_s()
        idle_share = 1 - (self._since[1] - busy_before_s) / (now - since)
        if idle_share <= BUSY:
            self.most = max(min(self.most, asked) // 2, LEAST)
        elif idle_share > STARVING:
            self.most = min(self.most * 2, MOST)
