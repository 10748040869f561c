"""The measurements of one activity; pure, without a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ENOUGH_PROBES = 5


class Place(Enum):
    """A place where a handler runs, in the words of verdicts."""

    ASYNC = "async"
    THREAD = "thread"
    PROCESS = "process"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Steps:
    """Seconds on the loop in steps of a length.

    Attributes:
        seconds: by bucket.
        lengths_s: the typical length in each bucket.

    """

    seconds: tuple[float, ...] = ()
    lengths_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of one activity in one place, over all processes.

    Attributes:
        attempts: ended.
        samples: of these, measured closely: CPU, wall (without the time others had the loop) and wait are theirs.
        cpu_s_p50: of one step on the loop, or of an attempt elsewhere.
        kept_s: on the loop, over all attempts.
        longest_block_s: on the loop at a time.
        steps: on the loop, those that took a millisecond or more.
        probes: requests for the GIL made while it ran.
        released: of these, how often it was to be had at once.
        longest_hold_s: of the GIL.
        growth_bytes: of resident memory, an attempt; None where none ran alone.

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
        """CPU of an attempt."""
        return 1e3 * self.cpu_s / self.samples if self.samples else 0.0

    @property
    def wall_ms(self) -> float:
        """Milliseconds an attempt takes, without the time that others had the loop."""
        return 1e3 * self.wall_s / self.samples if self.samples else 0.0

    @property
    def cpu_share(self) -> float:
        """CPU of the time an attempt takes."""
        return min(1.0, self.cpu_s / self.wall_s) if self.wall_s else 0.0

    @property
    def kept_ms(self) -> float:
        """On the loop, of an attempt."""
        return 1e3 * self.kept_s / self.attempts if self.attempts else 0.0

    @property
    def computes(self) -> bool:
        """True when its time on the loop is rather spent computing than blocked."""
        return self.cpu_s >= (self.wall_s - self.wait_s) / 2

    @property
    def released_share(self) -> float | None:
        """Of its time, how much the GIL is free; None while that is uncertain."""
        return self.released / self.probes if self.probes >= ENOUGH_PROBES else None

    @property
    def block_ms(self) -> float:
        """Milliseconds that a neighbour typically waits for it; a single bad moment does not count."""
        if not self.kept_s:
            return 0.0
        weighted = sum(
            seconds * length for seconds, length in zip(self.steps.seconds, self.steps.lengths_s, strict=True)
        )
        return min(1e3 * weighted / self.kept_s, self.kept_ms)


def residual_p95_s(steps: Iterable[Steps], during_s: float) -> float:
    """Seconds that 95 % of those who come at any moment of `during_s` wait at most for a step to end."""
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
    """The median out of buckets of which the first ends at `first_s` and each next one at twice that."""
    half, seen = sum(counts) / 2, 0.0
    for bucket, count in enumerate(counts):
        if count and seen + count >= half:
            lower = 0.0 if not bucket else first_s * 2.0 ** (bucket - 1)
            upper = first_s * 2.0**bucket
            return lower + (upper - lower) * (half - seen) / count
        seen += count
    return math.nan if seen else 0.0
