"""Counts how often this host claimed an activity without completing it, since the engine sends no attempt number.

Each worker, and the keeper, writes a row of its own and reads all rows, so that no cell has two writers. A place holds
the newest activity with that hash: with more failures than places a count may be too low, never too high.
"""

from __future__ import annotations

from hashlib import blake2b

PLACES = 4096  # per row; a power of two
_COUNT_BITS = 16
_MOST = (1 << _COUNT_BITS) - 1


def area_bytes(rows: int) -> int:
    """Returns the bytes of this many rows; pages never written cost no memory."""
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
        """Returns the row of one writer, by the number of its segment."""
        return SeenRow(self, row)

    @property
    def keeper(self) -> SeenRow:
        """The keeper's row."""
        return self.of(self._rows - 1)

    def earlier(self, activity_id: str) -> int:
        """Returns how often this host claimed the activity without completing it."""
        tag, place = _hash(activity_id)
        cells = self._cells
        found = (cells[place + row * PLACES] for row in range(self._rows))
        return sum(cell & _MOST for cell in found if cell >> _COUNT_BITS == tag)

    def add(self, row: int, activity_id: str) -> None:
        """Counts one more claim; for the row's writer only."""
        tag, place = _hash(activity_id)
        at = place + row * PLACES
        cell = self._cells[at]
        count = min(_MOST, (cell & _MOST) + 1) if cell >> _COUNT_BITS == tag else 1
        self._cells[at] = tag << _COUNT_BITS | count


class SeenRow:
    """The row of one writer, which also reads all rows."""

    __slots__ = ("_all", "_row")

    def __init__(self, rows: SeenCounts, row: int) -> None:
        self._all = rows
        self._row = row

    @classmethod
    def alone(cls) -> SeenRow:
        """Returns a row in private memory, for a worker without a shared ledger."""
        return SeenCounts(memoryview(bytearray(area_bytes(1)))).of(0)

    def earlier(self, activity_id: str) -> int:
        """See `SeenCounts.earlier`."""
        return self._all.earlier(activity_id)

    def add(self, activity_id: str) -> None:
        """Counts a claim that was not completed; called before the engine can hand the activity out again."""
        self._all.add(self._row, activity_id)


def _hash(activity_id: str) -> tuple[int, int]:
    """Returns the tag of an activity, never 0, and its place."""
    number = int.from_bytes(blake2b(activity_id.encode(), digest_size=8).digest(), "little")
    return (number >> _COUNT_BITS) or 1, number % PLACES
