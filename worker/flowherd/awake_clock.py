"""Time as it counts for whoever judges others by it: what a freeze took does not count; pure.

A process that was stopped, starved or suspended finds everybody else late when it goes on, and they are not: they
were frozen along with it. So nobody is judged by the time of day, but by the time that the judge was itself awake.
It waits in steps of `STEP_S` at most while it judges, since a freeze within one wait cannot be seen.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

STEP_S = 0.25
LATE_S = 0.1  # how much later than asked a wait may end under load
FREEZE_S = 1.0  # a wait that ends so much too late was no load


class AwakeClock:
    """Seconds that go on as the monotonic clock does, but for gaps in which its owner was not awake.

    Args:
        now: monotonic seconds.
        late_s: how much later than expected a reading may be before the rest counts as a gap.

    Attributes:
        woke_at: when the last freeze ended, in monotonic seconds; minus infinity before the first.

    """

    def __init__(self, now: float, late_s: float = LATE_S) -> None:
        self._late_s = late_s
        self._expected_at = now
        self._lost_s = 0.0
        self.woke_at = -inf

    def read(self, now: float) -> float:
        """The time; each reading is expected right after the one before, unless `waits` has said otherwise."""
        gap_s = now - self._expected_at - self._late_s
        if gap_s > 0:
            self._lost_s += gap_s
        if gap_s > FREEZE_S:
            self.woke_at = now
        self._expected_at = now
        return now - self._lost_s

    def waits(self, until: float) -> None:
        """The next reading is expected at `until`, in monotonic seconds, or before."""
        self._expected_at = until


class Patience:
    """A limit in awake time, for a loop that runs handlers too: it waits in steps.

    A handler that keeps the loop is no freeze. So a step may end late by a second, or by a quarter of the limit, and
    all of it counts; a longer freeze costs as much of the limit, and no more: half of it where it is short.

    Args:
        seconds: the limit.
        now: monotonic seconds.

    """

    def __init__(self, seconds: float, now: float) -> None:
        self._clock = AwakeClock(now, min(max(FREEZE_S, seconds / 4), seconds / 2))
        self._until = now + seconds

    def left_s(self, now: float) -> float:
        """Seconds until it is over."""
        return max(self._until - self._clock.read(now), 0.0)

    def next_wait_s(self, now: float) -> float:
        """Seconds to wait before asking again, 0 when it is over."""
        wait_s = min(self.left_s(now), STEP_S)
        self._clock.waits(now + wait_s)
        return wait_s


class Witness:
    """Measures for how long each fact has been seen, look by look."""

    def __init__(self) -> None:
        self._since: dict[Hashable, float] = {}
        self._seen: dict[Hashable, float] = {}

    def look(self) -> None:
        """Begins a look; what the last one did not see again is forgotten."""
        self._since, self._seen = self._seen, {}

    def lasts_s(self, fact: Hashable, now: float) -> float:
        """Seconds since `fact` was first seen, on the clock that `now` is of."""
        since = self._seen[fact] = self._since.get(fact, now)
        return now - since
