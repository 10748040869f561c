"""Histograms of durations, in shared memory and as values that can be summed over processes. Pure.

The buckets are log-linear, as those of HdrHistogram: each power of two is split into 16 equal parts. A part is at most
1/16 wider than it is long, so the value that is reported for it lies within 1/33 (3.1 %) of each duration in it, from
16 µs to 18.6 hours. Shorter durations have buckets of 1 µs; longer ones share the last, open one.

The unit is 1/1024 ms, so that every bound that `/metrics` publishes (1 ms, 2 ms, … 16.384 s) is the end of a bucket.
A bucket contains its upper end and not its lower one: the count at a published bound is exact, as `le` demands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from math import ceil, inf
from typing import TYPE_CHECKING

from flowherd.ledger.states_and_cells import PLAUSIBLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

UNITS_A_SECOND = 1_024_000.0
_PARTS_BITS = 4
PARTS = 1 << _PARTS_BITS  # of each power of two; also the buckets of a group, of which the mask has one bit
_OPEN = 1 << 36  # units, 18.6 hours: longer durations are in the last bucket
LONGEST_S = _OPEN / UNITS_A_SECOND
BUCKETS = 33 * PARTS + 1  # 33 whole groups, and the open one
# A histogram in shared memory is the sum of all durations in units, a count for each bucket, and a mask with one bit
# for each group that holds a count: the others are neither read nor cleared. `ActivityCounts.took` writes it.
MASK_AT = BUCKETS + 1
HISTOGRAM_CELLS = BUCKETS + 2
# A duration as long as a bound is in the bucket below it: it is scaled by a little less, which is 16 ps at 16 s.
SCALE = UNITS_A_SECOND * (1 - 1e-12)
_ALL_GROUPS = (1 << -(-BUCKETS // PARTS)) - 1

BOUNDS = 16  # of those that are published, the first ends at 1 ms, each further one at twice the one before
_FIRST_S = 0.001
_FIRST_BUCKET = 7 * PARTS  # the first one above 1 ms
CELLS = BOUNDS + 1  # of a histogram by published bounds alone: the counts, and the total in microseconds


class Timing(IntEnum):
    """Durations that each worker measures by published bounds alone, because no percentile is asked for."""

    POLL = 0  # a poll that was answered


def bound_of(seconds: float) -> int:
    """Returns the index of the first published bound that is not below a duration."""
    return min(max(ceil(seconds / _FIRST_S) - 1, 0).bit_length(), BOUNDS - 1)


def bound_s(index: int) -> float:
    """Returns a published bound in seconds; infinity for the last."""
    return _FIRST_S * 2.0**index if index < BOUNDS - 1 else inf


def quantile_s(counts: Sequence[float], share: float) -> float | None:
    """Returns an upper bound of a quantile in seconds, of counts by published bound; None if it is the last one."""
    total = sum(counts)
    if not total:
        return None
    seen = 0.0
    for index, count in enumerate(counts):
        seen += count
        if seen >= share * total:
            return None if index == BOUNDS - 1 else bound_s(index)
    return None


def bucket_of(units: int) -> int:
    """Returns the bucket of a duration that is longer than `units`, by one unit at most."""
    if units < 2 * PARTS:
        return max(0, units)
    if units > _OPEN:
        return BUCKETS - 1
    shift = units.bit_length() - 5
    return (shift << _PARTS_BITS) + (units >> shift)


def ends_of(bucket: int) -> tuple[int, int]:
    """Returns the lower and the upper end of a bucket in units, without and with the duration that is as long."""
    if bucket < 2 * PARTS:
        return bucket, bucket + 1
    shift = (bucket >> _PARTS_BITS) - 1
    part = PARTS + bucket % PARTS
    return part << shift, (part + 1) << shift


@dataclass(frozen=True, slots=True)
class Histogram:
    """A copy of one histogram, or a sum of several.

    Attributes:
        counts: the durations in each bucket that has any.
        units: the sum of all durations, each rounded down to a unit.

    """

    counts: Mapping[int, int] = field(default_factory=dict)
    units: int = 0

    def __add__(self, other: Histogram) -> Histogram:
        if not (self.counts and other.counts):
            return self if self.counts else other
        counts = dict(self.counts)
        for bucket, count in other.counts.items():
            counts[bucket] = counts.get(bucket, 0) + count
        return Histogram(counts, self.units + other.units)

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self.counts.values())

    @property
    def total_s(self) -> float:
        """The sum of all durations in seconds."""
        return self.units / UNITS_A_SECOND

    def quantile_s(self, share: float) -> float | None:
        """Returns the duration at a rank in seconds, within 1/33; None without durations, or beyond `LONGEST_S`."""
        rank = max(ceil(share * self.count - 1e-9), 1)
        for bucket in sorted(self.counts):
            rank -= self.counts[bucket]
            if rank <= 0:
                return _middle(bucket) / UNITS_A_SECOND if bucket < BUCKETS - 1 else None
        return None

    def bounded(self) -> tuple[int, ...]:
        """Returns the durations up to each published bound and above the one before."""
        counts = [0] * BOUNDS
        for bucket, count in self.counts.items():
            group = (bucket - _FIRST_BUCKET) // PARTS + 1
            counts[min(max(group, 0), BOUNDS - 1)] += count
        return tuple(counts)


def _middle(bucket: int) -> float:
    """Returns the value that is as far, in proportion, from the lower end of a bucket as from the upper one."""
    low, high = ends_of(bucket)
    return 2.0 * low * high / (low + high) if low else high / 2.0


def read(cells: memoryview[int], start: int) -> Histogram:
    """Returns a copy of a histogram; leaves out implausible numbers, which user code may have overwritten."""
    counts = {
        bucket: count
        for begin, end in _groups(cells[start + MASK_AT])
        for bucket, count in enumerate(cells[start + 1 + begin : start + 1 + end], begin)
        if 0 < count < PLAUSIBLE
    }
    units = cells[start]
    return Histogram(counts, units if units < PLAUSIBLE else 0)


def move(cells: memoryview[int], start: int, to: memoryview[int], its_start: int) -> None:
    """Moves a histogram into another one; for the writer of both.

    Each number is added there before it is cleared here, so none is ever in neither; a crash in between leaves one
    number in both.
    """
    found = read(cells, start)
    to[its_start + MASK_AT] |= cells[start + MASK_AT] & _ALL_GROUPS
    for at, number in [(0, found.units), *((1 + bucket, count) for bucket, count in found.counts.items())]:
        to[its_start + at] = (to[its_start + at] + number) % PLAUSIBLE
        cells[start + at] = 0
    clear(cells, start)


def clear(cells: memoryview[int], start: int) -> None:
    """Sets all numbers to 0, without a touch of memory that has never held a count; for the histogram's writer only."""
    for begin, end in _groups(cells[start + MASK_AT]):
        cells[start + 1 + begin : start + 1 + end] = memoryview(bytes(8 * (end - begin))).cast("Q")
    cells[start + MASK_AT] = cells[start] = 0


def _groups(used: int) -> Iterator[tuple[int, int]]:
    """Yields the first bucket of each group that holds a count, and the one after its last."""
    used &= _ALL_GROUPS
    while used:
        lowest = used & -used
        begin = (lowest.bit_length() - 1) * PARTS
        yield begin, min(begin + PARTS, BUCKETS)
        used ^= lowest
