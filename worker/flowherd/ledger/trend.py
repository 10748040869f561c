"""The trend: the counts of all activities together, sampled in shared memory every 10 s for 15 minutes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from flowherd.ledger.activity_counts import Ended, Took, buckets
from flowherd.ledger.histogram import BUCKETS, quantile_s
from flowherd.ledger.ring import Ring
from flowherd.ledger.ring import area_bytes as ring_bytes

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

EVERY_S, KEPT_S = 10.0, 900.0
_SAMPLE = struct.Struct(f"<d{len(Ended) + 2 * BUCKETS}Q")
_MOST = 2**63  # larger numbers cannot be stored, and no genuine sum is that large
_SLOTS = int(KEPT_S / EVERY_S) + 2  # one slot is never read, and the first interval needs two samples
AREA_BYTES = ring_bytes(_SLOTS, _SAMPLE.size)


@dataclass(frozen=True, slots=True)
class Interval:
    """The activities that ended between two samples, per second; the later sample was taken `ago_s` seconds ago.

    Quantiles are upper bounds in seconds, None when no activity ended or when they lie in the open last bucket.
    """

    ago_s: float
    seconds: float
    completed: float
    failed: float
    lost: float
    run_s_p50: float | None
    run_s_p95: float | None
    wait_s_p95: float | None


class Trend:
    """The samples, written by the keeper and continued by the next keeper."""

    def __init__(self, map_: mmap.mmap, offset: int) -> None:
        self._ring = Ring(map_, offset, slots=_SLOTS, entry_bytes=_SAMPLE.size)
        self._noted_at: float | None = None

    def note(self, now: float, counted: Callable[[], tuple[int, ...]]) -> None:
        """Adds a sample if one is due.

        Args:
            now: monotonic seconds.
            counted: the sum of all entries of `flowherd.ledger.activity_counts`.

        """
        if self._noted_at is None:
            self._noted_at = max((one[0] for one in self._samples()), default=now - EVERY_S)
        if self._noted_at <= now < self._noted_at + EVERY_S:
            return
        self._noted_at = now
        numbers = [min(number, _MOST) for number in counted()]
        durations = (*buckets(numbers, Took.RUN), *buckets(numbers, Took.WAIT))
        self._ring.extend(_SAMPLE.pack(now, *numbers[: len(Ended)], *durations))

    def intervals(self, now: float) -> list[Interval]:
        """Returns the intervals of the last 15 minutes, oldest first."""
        recent = self._recent(now)
        return [_interval(one, other, now) for one, other in pairwise(recent) if other[0] > one[0]]

    def whole(self, now: float) -> Interval | None:
        """Returns the last 15 minutes as one interval; None before the first interval has ended."""
        recent = self._recent(now)
        return _interval(recent[0], recent[-1], now) if recent and recent[-1][0] > recent[0][0] else None

    def _recent(self, now: float) -> list[tuple[float, ...]]:
        return [one for one in self._samples() if now - KEPT_S - EVERY_S <= one[0] <= now]

    def _samples(self) -> list[tuple[float, ...]]:
        return [_SAMPLE.unpack(entry) for entry in self._ring.entries()]


def _interval(one: tuple[float, ...], other: tuple[float, ...], now: float) -> Interval:
    seconds = other[0] - one[0]
    grown = [max(its - mine, 0) for mine, its in zip(one[1:], other[1:], strict=True)]
    run = grown[len(Ended) : len(Ended) + BUCKETS]
    wait = grown[len(Ended) + BUCKETS :]
    return Interval(
        ago_s=now - other[0],
        seconds=seconds,
        completed=grown[Ended.COMPLETED] / seconds,
        failed=(grown[Ended.FAILED] + grown[Ended.CRASHED]) / seconds,
        lost=grown[Ended.LOST] / seconds,
        run_s_p50=quantile_s(run, 0.5),
        run_s_p95=quantile_s(run, 0.95),
        wait_s_p95=quantile_s(wait, 0.95),
    )
