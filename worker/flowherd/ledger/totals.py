"""What each seat's ended incarnations have counted, added up so that a keeper may die anywhere; it reads no berths.

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
)  # moves so far; berth + 1, or 0; its seat; which of the berth's lives
_SUMS = 4
_MOST = 2**63


def cells_needed(seats: int, berths: int, width: int) -> int:
    """How many cells `SeatTotals` takes: for `width` counters, `berths` marks and one move under way."""
    return _SUMS + width + berths + seats * width


class SeatTotals:
    """Sums of `width` counters for each seat.

    Args:
        cells: as many as `cells_needed` says, all 0 at first.

    """

    def __init__(self, cells: memoryview[int] | list[int], berths: int, width: int) -> None:
        self._cells = cells
        self._width = width
        self._moved = _SUMS + width
        self._totals = self._moved + berths
        self._seats = (len(cells) - self._totals) // width

    def total(self, seat: int, counter: int) -> int:
        """One sum of one seat; 0 for one that there cannot be."""
        cells = self._cells
        if seat >= self._seats:
            return 0
        if cells[_MOVING] and cells[_SEAT] == seat:
            return cells[_SUMS + counter]
        return cells[self._totals + seat * self._width + counter]

    def has(self, berth: int, life: int) -> bool:
        """Whether what a berth counted in its `life`-th life is part of the sums."""
        cells = self._cells
        is_moving = cells[_MOVING] == berth + 1 and cells[_LIFE] == life
        return is_moving or cells[self._moved + berth] == life

    @property
    def mark(self) -> tuple[int, int]:
        """Two looks with the same mark have nothing between them that moved."""
        return self._cells[_MOVES], self._cells[_MOVING]

    def move(self, berth: int, life: int, seat: int, counted: Sequence[int]) -> None:
        """Makes what an ended incarnation counted a part of its seat's sums, once however often it is asked for."""
        self._finish()
        if self.has(berth, life):
            return
        for counter, count in enumerate(counted):
            self._cells[_SUMS + counter] = (self.total(seat, counter) + count) % _MOST
        self._cells[_SEAT] = seat
        self._cells[_LIFE] = life
        self._cells[_MOVING] = berth + 1
        self._finish()

    def _finish(self) -> None:
        """What has been written down, or a keeper before has left."""
        cells = self._cells
        if not cells[_MOVING]:
            return
        if cells[_MOVING] > self._totals - self._moved or cells[_SEAT] >= self._seats:
            cells[_MOVING] = 0  # no keeper has written that
            return
        first = self._totals + cells[_SEAT] * self._width
        for counter in range(self._width):
            cells[first + counter] = cells[_SUMS + counter]
        cells[self._moved + cells[_MOVING] - 1] = cells[_LIFE]
        cells[_MOVES] = (cells[_MOVES] + 1) % _MOST
        cells[_MOVING] = 0
