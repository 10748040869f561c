"""The number of activities that a poll may ask for: as many as can start soon. Pure.

What is claimed and has not begun is of no use to anybody: its lease runs, and a sibling could have begun it. So while
polls come back full and this thread has always something to do, they ask for half as much; when it often has nothing
to do, since a distant engine takes its time, for twice as much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 100  # activities a poll may ask for (protocol.md §4)
LEAST = 16  # of what does nothing this is a millisecond or two of work; less would be polls instead
BUSY, STARVING = 0.05, 0.1  # shares of the time in which the thread had nothing to do
WINDOW_S = 0.02  # of full polls only, before they are judged


class BatchSize:
    """Learns from polls that came back full.

    Args:
        busy_s: returns seconds in which the loop's thread has ever had something to do, with a CPU for it or without.

    """

    def __init__(self, busy_s: Callable[[], float]) -> None:
        self._busy_s = busy_s
        self._since: tuple[float, float] | None = None
        self.most = MOST

    def found(self, asked: int, found: int, now: float) -> None:
        """A poll that had asked for so many has brought so many."""
        if found < max(asked, 1):
            self._since = None
            return
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
