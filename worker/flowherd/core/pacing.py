"""When to poll next: pure, so that hours of polling are simulated in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowherd.core.retries import Rng

SOON_STARTED_S = 0.2  # work that could not begin for longer is better claimed by a sibling
SOON_S = 0.002  # after work, or an acknowledged completion: that usually makes the next step ready
IDLE_AFTER_S = 5.0  # without work for this long, polls spread out to the longest interval


@dataclass(frozen=True, slots=True)
class Pace:
    """What a poller remembers between polls. Times are monotonic seconds."""

    empty: int = 0
    last_work_at: float = 0.0

    def after_poll(self, found: int, now: float) -> Pace:
        """The pace after a poll that brought `found` activities."""
        return Pace(0, now) if found else replace(self, empty=self.empty + 1)

    def after_completion(self, now: float) -> Pace:
        """The pace after the engine has acknowledged an outcome."""
        return Pace(0, now)


def claimable(busy_mean_s: float) -> int:
    """How many activities a poll may ask for, so that this loop can start them soon and siblings get the rest.

    Args:
        busy_mean_s: seconds of the loop that a recent activity took, on average.

    """
    return 100 if busy_mean_s <= 0 else max(1, min(100, int(SOON_STARTED_S / busy_mean_s)))


def delay_s(pace: Pace, *, interval_s: float, interval_max_s: float, now: float, rng: Rng) -> float:
    """Seconds until the next poll: 2 ms after work, doubling with jitter to `interval_s`, idle to `interval_max_s`.

    Children forked together would poll in phase, hence the jitter of ± 20 %.
    """
    if pace.empty == 0:
        return SOON_S
    idle_s = now - pace.last_work_at
    ceiling = interval_s if idle_s < IDLE_AFTER_S else min(interval_max_s, interval_s * idle_s / IDLE_AFTER_S)
    return min(SOON_S * 2.0 ** min(pace.empty, 20), max(ceiling, interval_s)) * rng.uniform(0.8, 1.2)
