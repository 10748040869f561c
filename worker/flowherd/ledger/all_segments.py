"""All segments of a ledger, as a sequence whose items are created on access."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from flowherd.ledger.segment import Layout, Segment
from flowherd.ledger.states_and_cells import Cell

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator

_STARTED, _ENDED, _SETTLED, _OPENED, _HIGH_WATER = map(
    int, (Cell.STARTED, Cell.ENDED, Cell.SETTLED, Cell.OPENED, Cell.HIGH_WATER)
)


class Segments(Sequence[Segment]):
    """The segments, contiguous in the map.

    A process scans all of them to find its siblings. With a hundred objects a forked process would copy a hundred pages
    by the scan; through one view of the map it copies none.

    Args:
        map_: the ledger's map.
        first: offset of the first segment.
        count: the number of segments.

    """

    def __init__(self, map_: mmap.mmap, first: int, layout: Layout, count: int) -> None:
        self._map = map_
        self._first = first
        self._layout = layout
        self._size = layout.size  # cached: computed from many parts
        self._count = count
        self._made: dict[int, Segment] = {}
        self._cells: memoryview[int] = memoryview(map_)[first : first + count * self._size].cast("Q")
        self._starts = range(0, len(self._cells), self._size // 8)  # of each segment, among the cells

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
        if made is None:  # two threads that create it at once get the same object
            offset = self._first + number * self._size
            made = self._made.setdefault(number, Segment(self._map, offset, self._layout, number))
        return made

    @property
    def are_at_rest(self) -> bool:
        """True when no record is held, and no ended incarnation waits to be settled."""
        return next(self.in_use(), None) is None

    def in_use(self) -> Iterator[int]:
        """Yields the numbers of those that hold a record, or have ended and wait to be settled.

        A claim becomes visible with its record's state byte, which is written last.
        """
        cells = self._cells
        for number, at in enumerate(self._starts):
            started, ended = cells[at + _STARTED], cells[at + _ENDED]
            if started == ended:
                if cells[at + _SETTLED] != ended:
                    yield number
            elif cells[at + _OPENED] == started:
                states = self._first + number * self._size + self._layout.states
                if any(self._map[states : states + min(cells[at + _HIGH_WATER], self._layout.records)]):
                    yield number

    def begun(self) -> list[int]:
        """Returns the numbers of the LIVE and ENDED segments."""
        cells = self._cells
        return [
            number for number, at in enumerate(self._starts) if cells[at + _STARTED] != cells[at + _SETTLED]
        ]

    def ended(self) -> list[int]:
        """Returns the numbers of the ENDED segments, which wait to be settled."""
        cells = self._cells
        return [
            number
            for number, at in enumerate(self._starts)
            if cells[at + _STARTED] == cells[at + _ENDED] != cells[at + _SETTLED]
        ]

    def living(self) -> list[int]:
        """Returns the numbers of the LIVE segments."""
        cells = self._cells
        return [
            number for number, at in enumerate(self._starts) if cells[at + _STARTED] != cells[at + _ENDED]
        ]
