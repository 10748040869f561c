"""Counts the ends and durations of activities by name, in cells with a single writer.

The names are those of the app's activities; all other names are counted together as `OTHER`. Each end and each duration
is stored at once, so that a crash loses none.

An entry has its ends, then its histograms: 12.8 kB, of which memory backs the three or four pages that are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import floor

from flowherd.ledger import histogram
from flowherd.ledger.histogram import HISTOGRAM_CELLS, MASK_AT, SCALE, Histogram, bucket_of
from flowherd.ledger.states_and_cells import PLAUSIBLE

OTHER = "other"


class Ended(IntEnum):
    """The end of a claim."""

    COMPLETED = 0
    FAILED = 1
    LOST = 2  # the engine gave it to another worker
    CRASHED = 3  # its process died, and the keeper reported it


class Took(IntEnum):
    """Durations of an activity."""

    WAIT = 0  # from the claim to the handler's first step
    RUN = 1  # from the first step to the outcome
    REPORT = 2  # from the outcome to the engine's verdict, outages included


_ENDS = len(Ended)
_STARTS = tuple(_ENDS + HISTOGRAM_CELLS * took for took in Took)
NUMBERS = _ENDS + HISTOGRAM_CELLS * len(Took)
_TABLED = 1024  # units: 1 ms
_AFTER_SUM = bytes(1 + bucket_of(units) for units in range(_TABLED))


@dataclass(frozen=True, slots=True)
class Counts:
    """A copy of the counts of one activity, or the sum of several; `ended` is by `Ended`, `took` by `Took`."""

    ended: tuple[int, ...] = (0,) * _ENDS
    took: tuple[Histogram, ...] = (Histogram(),) * len(Took)

    def __add__(self, other: Counts) -> Counts:
        ended = tuple(one + its for one, its in zip(self.ended, other.ended, strict=True))
        return Counts(ended, tuple(one + its for one, its in zip(self.took, other.took, strict=True)))

    def __bool__(self) -> bool:
        return any(self.ended) or any(one.counts for one in self.took)


class ActivityCounts:
    """The counts of one incarnation, or of all that have ended; written by a single process.

    Args:
        area: `area_bytes` of the shared map.

    """

    def __init__(self, area: memoryview) -> None:
        self._cells = area.cast("Q")

    def ended(self, entry: int, how: int) -> None:
        """Counts an end; `how` is a member of `Ended`."""
        self._cells[entry * NUMBERS + how] += 1

    def took(self, entry: int, what: int, seconds: float) -> None:
        """Counts a duration; `what` is a member of `Took`.

        The mask is stored before the first count of a bucket, so that no reader misses it. `bucket_of` is written out
        here, and has a table for what is shorter than 1 ms, which saves about 50 of 280 ns.
        """
        cells, start = self._cells, entry * NUMBERS + _STARTS[what]
        units = floor(seconds * SCALE)
        if units >= _TABLED:
            shift = units.bit_length() - 5
            at = start + 1 + ((shift << 4) + (units >> shift) if shift < 32 else 528)
        elif units >= 0:
            at = start + _AFTER_SUM[units]
        else:
            units, at = 0, start + 1
        count = cells[at]
        if not count:
            cells[start + MASK_AT] |= 1 << (at - start - 1 >> 4)
        cells[at] = count + 1
        cells[start] += units

    def clear(self, entry: int) -> None:
        """Sets all numbers of an entry to 0."""
        start = entry * NUMBERS
        self._cells[start : start + _ENDS] = memoryview(bytes(8 * _ENDS)).cast("Q")
        for its_start in _STARTS:
            histogram.clear(self._cells, start + its_start)

    def read(self, entry: int) -> Counts:
        """Returns all numbers of an entry; 0 for implausible ones, which user code may have overwritten."""
        start = entry * NUMBERS
        ended = tuple(number if number < PLAUSIBLE else 0 for number in self._cells[start : start + _ENDS])
        return Counts(ended, tuple(histogram.read(self._cells, start + its) for its in _STARTS))

    def move(self, entry: int, to: ActivityCounts, its_entry: int) -> None:
        """Moves an entry's numbers to another table.

        Each number is added there before it is cleared here, so none is ever in neither; a crash in between leaves one
        number in both.
        """
        start, its_start = entry * NUMBERS, its_entry * NUMBERS
        for how, count in enumerate(self.read(entry).ended):
            if count:
                to._cells[its_start + how] = (to._cells[its_start + how] + count) % PLAUSIBLE
                self._cells[start + how] = 0
        for at in _STARTS:
            histogram.move(self._cells, start + at, to._cells, its_start + at)


def area_bytes(entries: int) -> int:
    """Returns the bytes for this many entries."""
    return 8 * NUMBERS * entries
