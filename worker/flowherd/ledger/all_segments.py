"""All segments of a ledger: each is an object once somebody asks for it; who lives is read without making any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from flowherd.ledger.segment import Layout, Segment
from flowherd.ledger.states_and_cells import Cell

if TYPE_CHECKING:
    import mmap

_STARTED, _ENDED, _SETTLED, _OPENED, _HIGH_WATER = map(
    int, (Cell.STARTED, Cell.ENDED, Cell.SETTLED, Cell.OPENED, Cell.HIGH_WATER)
)


class Segments(Sequence[Segment]):
    """Segments that lie one behind the other.

    A process looks at each of them to find its siblings. A hundred objects are a hundred pages that a forked one
    copies by looking; through one view of the map it copies none.

    Args:
        map_: the ledger's.
        first: offset of the first segment.
        count: how many there are.

    """

    def __init__(self, map_: mmap.mmap, first: int, layout: Layout, count: int) -> None:
        self._map = map_
        self._first = first
        self._layout = layout
        self._size = layout.size  # a sum of many
        self._count = count
        self._made: dict[int, Segment] = {}
        self._cells: memoryview[int] = memoryview(map_)[first : first + count * self._size].cast("Q")

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> Segment: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[Segment, ...]: ...
    def __getitem__(self, number: int | slice) -> Segment | tuple[Segment, ...]:
        if isinstance(number, slice):
            return tuple(self[one] for one in range(*number.indices(len(self))))
        number = range(self._count)[number]
        made = self._made.get(number)
        if made is None:  # of two threads that make it at once both get the same
            offset = self._first + number * self._size
            made = self._made.setdefault(number, Segment(self._map, offset, self._layout, number))
        return made

    @property
    def are_at_rest(self) -> bool:
        """True when nobody holds a record, and no ended incarnation waits to be settled.

        A claim is seen once its record's state is written, which is the last thing that is written of it.
        """
        cells, width = self._cells, self._size // 8
        for number, at in enumerate(range(0, len(cells), width)):
            started, ended, settled = cells[at + _STARTED], cells[at + _ENDED], cells[at + _SETTLED]
            if started == ended:
                if settled != ended:
                    return False
            elif cells[at + _OPENED] == started:
                states = self._first + number * self._size + self._layout.states
                if any(self._map[states : states + min(cells[at + _HIGH_WATER], self._layout.records)]):
                    return False
        return True

    def ended(self) -> list[int]:
        """The numbers of those that are ENDED, and wait to be settled."""
        cells, width = self._cells, self._size // 8
        return [
            number
            for number, at in enumerate(range(0, len(cells), width))
            if cells[at + _STARTED] == cells[at + _ENDED] != cells[at + _SETTLED]
        ]

    def living(self) -> list[int]:
        """The numbers of those that are LIVE."""
        cells, width = self._cells, self._size // 8
        return [
            number
            for number, at in enumerate(range(0, len(cells), width))
            if cells[at + _STARTED] != cells[at + _ENDED]
        ]
