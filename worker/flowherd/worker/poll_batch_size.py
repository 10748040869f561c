"""The number of activities that a poll may request: as many as can start soon. Pure.

Activities that are claimed but cannot begin waste their leases, and a sibling could have begun them. So while polls
come back full and this thread is always busy, polls request half as many; when it is often idle, because a distant
engine is slow, twice as many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 100  # activities per poll (protocol.md §4)
LEAST = 16  # a millisecond or two of empty handlers; with fewer, polls would cost more than they bring
BUSY, STARVING = 0.05, 0.1  # shares of idle time of the thread
WINDOW_S = 0.02  # length of a window of full polls, after which the size is adapted


class BatchSize:
    """Adapts the size of polls from those that came back full.

    Args:
        busy_s: returns the total seconds that the loop's thread was runnable, with or without a CPU.

    """

    def __init__(self, busy_s: Callable[[], float]) -> None:
        self._busy_s = busy_s
        self._since: tuple[float, float] | None = None
        self.most = MOST

    def found(self, asked: int, found: int, now: float) -> None:
        """Notes a poll that requested `asked` activities and brought `found`."""
        if found < asked or asked < LEAST:
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
