"""Counts the ends and durations of activities by name, in cells with a single writer.

The names are those of the app's activities; all other names are counted together as `OTHER`. Each end and each duration
is stored at once, so that a crash loses none.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from flowherd.ledger.histogram import BUCKETS, CELLS, bucket_of
from flowherd.ledger.states_and_cells import PLAUSIBLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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


NUMBERS = len(Ended) + CELLS * len(Took)
_FIRST = tuple(len(Ended) + CELLS * took for took in Took)


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
        """Counts a duration; `what` is a member of `Took`."""
        cells, first = self._cells, entry * NUMBERS + _FIRST[what]
        cells[first + bucket_of(seconds)] += 1
        if seconds > 0:
            cells[first + BUCKETS] += int(seconds * 1e6)

    def clear(self, entry: int) -> None:
        """Sets all numbers of an entry to 0."""
        first = entry * NUMBERS
        self._cells[first : first + NUMBERS] = memoryview(bytes(8 * NUMBERS)).cast("Q")

    def read(self, entry: int) -> tuple[int, ...]:
        """Returns all numbers of an entry; 0 for implausible ones, which user code may have overwritten."""
        first = entry * NUMBERS
        return tuple(number if number < PLAUSIBLE else 0 for number in self._cells[first : first + NUMBERS])

    def move(self, entry: int, to: ActivityCounts, its_entry: int) -> None:
        """Moves an entry's numbers to another table.

        Each number is added there before it is cleared here, so none is ever in neither; a crash in between leaves one
        number in both.
        """
        for number, count in enumerate(self.read(entry)):
            if count:
                at = its_entry * NUMBERS + number
                to._cells[at] = (to._cells[at] + count) % PLAUSIBLE
                self._cells[entry * NUMBERS + number] = 0


def area_bytes(entries: int) -> int:
    """Returns the bytes for this many entries."""
    return 8 * NUMBERS * entries


def buckets(numbers: Sequence[int], what: Took) -> Sequence[int]:
    """Returns an entry's durations, as counts by `flowherd.ledger.histogram`."""
    return numbers[_FIRST[what] : _FIRST[what] + BUCKETS]


def total_s(numbers: Sequence[int], what: Took) -> float:
    """Returns the sum of an entry's durations in seconds."""
    return numbers[_FIRST[what] + BUCKETS] / 1e6


def summed(parts: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """Returns the sum of several entries' numbers."""
    return tuple(map(sum, zip((0,) * NUMBERS, *parts, strict=True)))
