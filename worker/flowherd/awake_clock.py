"""Clocks that do not count the time in which their process was frozen. Pure.

To a process that was stopped, starved or suspended all others seem late when it goes on, although they may have been
frozen with it. So deadlines of others are measured by the time in which this process was awake. It waits in steps of at
most `STEP_S`, because a freeze within one wait goes unnoticed.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

STEP_S = 0.25
LATE_S = 0.1  # a wait may end this much too late under load
FREEZE_S = 1.0  # a wait that ends this much too late was a freeze, not load


class AwakeClock:
    """A monotonic clock without the gaps in which its process was not awake.

    Args:
        now: monotonic seconds.
        late_s: seconds by which a reading may be late before the rest counts as a gap.

    Attributes:
        woke_at: the end of the last freeze in monotonic seconds; minus infinity before the first.

    """

    def __init__(self, now: float, late_s: float = LATE_S) -> None:
        self._late_s = late_s
        self._expected_at = now
        self._lost_s = 0.0
        self.woke_at = -inf

    def read(self, now: float) -> float:
        """Returns the time; each reading is expected right after the previous one, unless `waits` was called."""
        gap_s = now - self._expected_at - self._late_s
        if gap_s > 0:
            self._lost_s += gap_s
        if gap_s > FREEZE_S:
            self.woke_at = now
        self._expected_at = now
        return now - self._lost_s

    def waits(self, until: float) -> None:
        """Expects the next reading at `until`, in monotonic seconds, or before."""
        self._expected_at = until


class Patience:
    """A time limit in awake time, for a loop that also runs handlers; waited for in steps.

    A handler that blocks the loop is not a freeze. So a step may end late by a second, or by a quarter of the limit,
    and all of that counts; a longer freeze costs no more than this, and at most half of a short limit.

    Args:
        seconds: the limit.
        now: monotonic seconds.

    """

    def __init__(self, seconds: float, now: float) -> None:
        self._clock = AwakeClock(now, min(max(FREEZE_S, seconds / 4), seconds / 2))
        self._until = now + seconds

    def left_s(self, now: float) -> float:
        """Returns the seconds until the limit is over."""
        return max(self._until - self._clock.read(now), 0.0)

    def next_wait_s(self, now: float) -> float:
        """Returns the seconds to wait before the next check; 0 when the limit is over."""
        wait_s = min(self.left_s(now), STEP_S)
        self._clock.waits(now + wait_s)
        return wait_s


class Witness:
    """Measures for how long each fact has been true, over repeated checks."""

    def __init__(self) -> None:
        self._since: dict[Hashable, float] = {}
        self._seen: dict[Hashable, float] = {}

    def look(self) -> None:
        """Begins a check; forgets the facts that the last one did not see again."""
        self._since, self._seen = self._seen, {}

    def lasts_s(self, fact: Hashable, now: float) -> float:
        """Returns the seconds since `fact` was first seen, on the clock of `now`."""
        since = self._seen[fact] = self._since.get(fact, now)
        return now - since
