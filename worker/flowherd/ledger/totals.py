"""Counts of ended incarnations, added up by process so that a keeper may die anywhere; it reads no segments.

The keeper is the only writer, and one keeper at a time. To add is to read, and to do it twice is to count twice; so
nothing is added in place. The new sums are written down first, then who is being moved, in one store; from then on
readers take them for the truth, and whoever comes next copies them once more, which changes nothing. Only then is the
incarnation marked as moved, and a marked one is never moved again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOVES, _MOVING, _SEAT, _LIFE = range(
    4
)  # moves so far; segment + 1, or 0; its process; which of the segment's lives
_SUMS = 4
_MOST = 2**63


def cells_needed(processes: int, segments: int, width: int) -> int:
    """How many cells `ProcessTotals` takes: for `width` counters, `segments` marks and one move under way."""
    return _SUMS + width + segments + processes * width


class ProcessTotals:
    """Sums of `width` counters for each process.

    Args:
        cells: as many as `cells_needed` says, all 0 at first.

    """

    def __init__(self, cells: memoryview[int] | list[int], segments: int, width: int) -> None:
        self._cells = cells
        self._width = width
        self._moved = _SUMS + width
        self._totals = self._moved + segments
        self._processes = (len(cells) - self._totals) // width

    def total(self, index: int, counter: int) -> int:
        """One sum of one index; 0 for one that there cannot be."""
        cells = self._cells
        if index >= self._processes:
            return 0
        if cells[_MOVING] and cells[_SEAT] == index:
            return cells[_SUMS + counter]
        return cells[self._totals + index * self._width + counter]

    def has(self, segment: int, life: int) -> bool:
        """Whether what a segment counted in its `life`-th life is part of the sums."""
        cells = self._cells
        is_moving = cells[_MOVING] == segment + 1 and cells[_LIFE] == life
        return is_moving or cells[self._moved + segment] == life

    @property
    def mark(self) -> tuple[int, int]:
        """Two looks with the same mark have nothing between them that moved."""
        return self._cells[_MOVES], self._cells[_MOVING]

    def move(self, segment: int, life: int, index: int, counted: Sequence[int]) -> None:
        """Makes what an ended incarnation counted a part of its process's sums, once however often it is asked for."""
        self._finish()
        if self.has(segment, life):
            return
        for counter, count in enumerate(counted):
            self._cells[_SUMS + counter] = (self.total(index, counter) + count) % _MOST
        self._cells[_SEAT] = index
        self._cells[_LIFE] = life
        self._cells[_MOVING] = segment + 1
        self._finish()

    def _finish(self) -> None:
        """What has been written down, or a keeper before has left."""
        cells = self._cells
        if not cells[_MOVING]:
            return
        if cells[_MOVING] > self._totals - self._moved or cells[_SEAT] >= self._processes:
            cells[_MOVING] = 0  # no keeper has written that
            return
        first = self._totals + cells[_SEAT] * self._width
        for counter in range(self._width):
            cells[first + counter] = cells[_SUMS + counter]
        cells[self._moved + cells[_MOVING] - 1] = cells[_LIFE]
        cells[_MOVES] = (cells[_MOVES] + 1) % _MOST
        cells[_MOVING] = 0
