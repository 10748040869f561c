"""The measurements of one activity, and figures derived from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ENOUGH_PROBES = 5


class Place(Enum):
    """A place where a handler runs, as named in verdicts."""

    ASYNC = "async"
    THREAD = "thread"
    PROCESS = "process"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Steps:
    """Seconds on the loop by length of step.

    Attributes:
        seconds: total seconds in each bucket.
        lengths_s: typical length of a step in each bucket, in seconds.

    """

    seconds: tuple[float, ...] = ()
    lengths_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of one activity in one place, over all processes.

    Attributes:
        attempts: number of ended attempts.
        samples: number of closely measured attempts, whose sums are `cpu_s`, `wall_s` (without the time that others had
            the loop) and `wait_s`.
        cpu_s_p50: median CPU of one step on the loop, or of an attempt elsewhere.
        kept_s: seconds on the loop, over all attempts.
        longest_block_s: longest step on the loop.
        steps: steps on the loop of a millisecond or more.
        probes: number of probes of the GIL while it ran.
        released: number of probes that got the GIL at once.
        longest_hold_s: longest time it held the GIL.
        growth_bytes: growth of resident memory per attempt; None if none ran alone.

    """

    name: str
    place: Place
    attempts: int
    samples: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    wait_s: float = 0.0
    cpu_s_p50: float = 0.0
    kept_s: float = 0.0
    longest_block_s: float = 0.0
    steps: Steps = Steps()
    probes: int = 0
    released: int = 0
    longest_hold_s: float = 0.0
    growth_bytes: float | None = None

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of CPU per attempt."""
        return 1e3 * self.cpu_s / self.samples if self.samples else 0.0

    @property
    def wall_ms(self) -> float:
        """Milliseconds per attempt, without the time that others had the loop."""
        return 1e3 * self.wall_s / self.samples if self.samples else 0.0

    @property
    def cpu_share(self) -> float:
        """Share of an attempt's time that is CPU."""
        return min(1.0, self.cpu_s / self.wall_s) if self.wall_s else 0.0

    @property
    def kept_ms(self) -> float:
        """Milliseconds on the loop per attempt."""
        return 1e3 * self.kept_s / self.attempts if self.attempts else 0.0

    @property
    def computes(self) -> bool:
        """True if it computes for at least half of its time on the loop, instead of blocking."""
        return self.cpu_s >= (self.wall_s - self.wait_s) / 2

    @property
    def released_share(self) -> float | None:
        """Share of its time in which the GIL is free; None with too few probes."""
        return self.released / self.probes if self.probes >= ENOUGH_PROBES else None

    @property
    def block_ms(self) -> float:
        """Milliseconds that another handler typically waits for it; weighted, so that one outlier hardly counts."""
        if not self.kept_s:
            return 0.0
        weighted = sum(
            seconds * length for seconds, length in zip(self.steps.seconds, self.steps.lengths_s, strict=True)
        )
        return min(1e3 * weighted / self.kept_s, self.kept_ms)


def residual_p95_s(steps: Iterable[Steps], during_s: float) -> float:
    """Seconds that a caller at a random moment of `during_s` waits for a step to end, the 95th percentile."""
    parts = [
        (seconds, length)
        for one in steps
        for seconds, length in zip(one.seconds, one.lengths_s, strict=True)
        if seconds
    ]

    def share_waiting(longer_than_s: float) -> float:
        return sum(s * max(0.0, 1 - longer_than_s / length) for s, length in parts) / max(during_s, 1e-9)

    low, high = 0.0, max((length for _, length in parts), default=0.0)
    if share_waiting(0.0) <= 0.05:
        return 0.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if share_waiting(middle) > 0.05 else (low, middle)
    return high


def median_s(counts: Sequence[float], first_s: float) -> float:
    """Returns the median of a histogram whose first bucket ends at `first_s` and each next one at twice that."""
    half, seen = sum(counts) / 2, 0.0
    for bucket, count in enumerate(counts):
        if count and seen + count >= half:
            lower = 0.0 if not bucket else first_s * 2.0 ** (bucket - 1)
            upper = first_s * 2.0**bucket
            return lower + (upper - lower) * (half - seen) / count
        seen += count
    return math.nan if seen else 0.0
