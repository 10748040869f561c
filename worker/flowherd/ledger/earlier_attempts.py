"""The host's memory of activities that it was given and has not completed: the engine tells no attempt number.

Each worker, and the keeper, has a row of its own and reads all of them, so that no cell has two writers. A place holds
the newest activity that belongs there: with more failures than places a count may be too low, never too high.
"""

from __future__ import annotations

from hashlib import blake2b

PLACES = 4096  # of a row: a power of two
_COUNT_BITS = 16
_MOST = (1 << _COUNT_BITS) - 1


def area_bytes(rows: int) -> int:
    """Bytes of the map; pages that nobody has written cost nothing."""
    return rows * PLACES * 8


class SeenCounts:
    """All rows.

    Args:
        area: `area_bytes` of the shared map.

    """

    def __init__(self, area: memoryview) -> None:
        self._cells = area.cast("Q")
        self._rows = len(self._cells) // PLACES

    def __repr__(self) -> str:
        return f"<SeenCounts [{self._rows} rows]>"

    def of(self, row: int) -> SeenRow:
        """The pen of one writer, by the number of its segment."""
        return SeenRow(self, row)

    @property
    def keeper(self) -> SeenRow:
        """The keeper's pen."""
        return self.of(self._rows - 1)

    def earlier(self, activity_id: str) -> int:
        """The number of times that this host was given the activity and did not complete it."""
        tag, place = _hash(activity_id)
        cells = self._cells
        found = (cells[place + row * PLACES] for row in range(self._rows))
        return sum(cell & _MOST for cell in found if cell >> _COUNT_BITS == tag)

    def add(self, row: int, activity_id: str) -> None:
        """Counts once more; only the row's writer may."""
        tag, place = _hash(activity_id)
        at = place + row * PLACES
        cell = self._cells[at]
        count = min(_MOST, (cell & _MOST) + 1) if cell >> _COUNT_BITS == tag else 1
        self._cells[at] = tag << _COUNT_BITS | count


class SeenRow:
    """The row of one writer; reads them all."""

    __slots__ = ("_all", "_row")

    def __init__(self, rows: SeenCounts, row: int) -> None:
        self._all = rows
        self._row = row

    @classmethod
    def alone(cls) -> SeenRow:
        """A row for a worker without a ledger that others share."""
        return SeenCounts(memoryview(bytearray(area_bytes(1)))).of(0)

    def earlier(self, activity_id: str) -> int:
        """See `SeenCounts.earlier`."""
        return self._all.earlier(activity_id)

    def add(self, activity_id: str) -> None:
        """The host was given this activity and does not complete it; said before the engine hands it out again."""
        self._all.add(self._row, activity_id)


def _hash(activity_id: str) -> tuple[int, int]:
    """The mark of an activity, never 0, and its place."""
    number = int.from_bytes(blake2b(activity_id.encode(), digest_size=8).digest(), "little")
    return (number >> _COUNT_BITS) or 1, number % PLACES
