"""The trend: the counts of all activities together, sampled in shared memory every 10 s for 15 minutes."""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from flowherd.ledger.activity_counts import Ended, Took
from flowherd.ledger.histogram import BUCKETS, Histogram
from flowherd.ledger.ring import Ring
from flowherd.ledger.ring import area_bytes as ring_bytes

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Sequence

    from flowherd.ledger.activity_counts import Counts

EVERY_S, KEPT_S = 10.0, 900.0
_SHOWN = (Took.RUN, Took.WAIT)
_HEAD = struct.Struct(f"<d{len(Ended)}Q")  # monotonic seconds, then the ends
_SAMPLE_BYTES = _HEAD.size + 4 * BUCKETS * len(_SHOWN)
_MOST = 2**63  # larger numbers cannot be stored, and no genuine sum is that large
_WRAP = 2**32  # durations are counted modulo this: a difference of two samples is smaller
_SLOTS = int(KEPT_S / EVERY_S) + 2  # one slot is never read, and the first interval needs two samples
AREA_BYTES = ring_bytes(_SLOTS, _SAMPLE_BYTES)  # 390 kB, once for the host


@dataclass(frozen=True, slots=True)
class Interval:
    """The activities that ended between two samples, per second; the later sample was taken `ago_s` seconds ago.

    Quantiles are in seconds (`Histogram.quantile_s`), None when no activity ended.
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
        self._ring = Ring(map_, offset, slots=_SLOTS, entry_bytes=_SAMPLE_BYTES)
        self._noted_at: float | None = None

    def note(self, now: float, counted: Callable[[], Counts]) -> None:
        """Adds a sample if one is due.

        Args:
            now: monotonic seconds.
            counted: the sum of all entries of `flowherd.ledger.activity_counts`.

        """
        if self._noted_at is None:
            self._noted_at = max(map(_time_of, self._ring.entries()), default=now - EVERY_S)
        if self._noted_at <= now < self._noted_at + EVERY_S:
            return
        self._noted_at = now
        counts = counted()
        head = _HEAD.pack(now, *(min(number, _MOST) for number in counts.ended))
        self._ring.extend(head + b"".join(_packed(counts.took[took]) for took in _SHOWN))

    def intervals(self, now: float) -> list[Interval]:
        """Returns the intervals of the last 15 minutes, oldest first."""
        recent = self._recent(now)
        return [
            _interval(one, other, now) for one, other in pairwise(recent) if _time_of(other) > _time_of(one)
        ]

    def whole(self, now: float) -> Interval | None:
        """Returns the last 15 minutes as one interval; None before the first interval has ended."""
        recent = self._recent(now)
        if not recent or _time_of(recent[-1]) <= _time_of(recent[0]):
            return None
        return _interval(recent[0], recent[-1], now)

    def _recent(self, now: float) -> list[bytes]:
        return [one for one in self._ring.entries() if now - KEPT_S - EVERY_S <= _time_of(one) <= now]


def _time_of(sample: bytes) -> float:
    return float(_HEAD.unpack_from(sample)[0])


def _packed(histogram: Histogram) -> bytes:
    counts = array("I", bytes(4 * BUCKETS))
    for bucket, count in histogram.counts.items():
        counts[bucket] = count % _WRAP
    return counts.tobytes()


def _grown(one: Sequence[int], other: Sequence[int]) -> Histogram:
    """Returns what a histogram has got between two samples; 0 for a count that fell, which user code may have done."""
    grown = {
        bucket: (its - mine) % _WRAP
        for bucket, (mine, its) in enumerate(zip(one, other, strict=True))
        if mine != its and (its - mine) % _WRAP < _WRAP // 2
    }
    return Histogram(grown)


def _interval(one: bytes, other: bytes, now: float) -> Interval:
    (began, *before), (at, *after) = _HEAD.unpack_from(one), _HEAD.unpack_from(other)
    seconds = at - began
    ended = [max(its - mine, 0) for mine, its in zip(before, after, strict=True)]
    mine, its = (memoryview(sample)[_HEAD.size :].cast("I") for sample in (one, other))
    run, wait = (
        _grown(mine[BUCKETS * n : BUCKETS * (n + 1)], its[BUCKETS * n : BUCKETS * (n + 1)])
        for n in range(len(_SHOWN))
    )
    return Interval(
        ago_s=now - at,
        seconds=seconds,
        completed=ended[Ended.COMPLETED] / seconds,
        failed=(ended[Ended.FAILED] + ended[Ended.CRASHED]) / seconds,
        lost=ended[Ended.LOST] / seconds,
        run_s_p50=run.quantile_s(0.5),
        run_s_p95=run.quantile_s(0.95),
        wait_s_p95=wait.quantile_s(0.95),
    )
