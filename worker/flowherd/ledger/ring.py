"""Rings in shared memory that hold the newest entries of a fixed size, with one writer and many readers.

Entries are numbered from the first one on, and the writer stores the total count after it has written an entry. Entries
are moved from one ring to another as bytes, without decoding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowherd.ledger.states_and_cells import PLAUSIBLE

if TYPE_CHECKING:
    import mmap

_CELLS = 8
HEAD_BYTES = 8 * _CELLS
_WRITTEN, _TAKEN, _MISSED = range(3)  # the last two by the process that moves entries away


class Ring:
    """A ring that keeps the newest `slots - 1` entries of at most `entry_bytes`.

    Args:
        map_: the ledger's map.
        offset: the offset of its `area_bytes`, a multiple of 8.

    """

    __slots__ = ("_cells", "_first", "_map", "_written", "entry_bytes", "slots")

    def __init__(self, map_: mmap.mmap, offset: int, *, slots: int, entry_bytes: int) -> None:
        self._map = map_
        self._cells: memoryview[int] = memoryview(map_)[offset : offset + HEAD_BYTES].cast("Q")
        self._first = offset + HEAD_BYTES
        self.slots = slots
        self.entry_bytes = entry_bytes
        self._written = self.written

    def __repr__(self) -> str:
        return f"<Ring [{min(self.written, self.slots)} of {self.slots} slots, {self.missed} missed]>"

    @property
    def written(self) -> int:
        """The number of entries ever written; 0 when it is implausible, because user code has overwritten it."""
        written = self._cells[_WRITTEN]
        return written if written < PLAUSIBLE else 0

    @property
    def missed(self) -> int:
        """The number of entries overwritten before they were moved away."""
        return min(self._cells[_MISSED], PLAUSIBLE)

    @property
    def is_filling(self) -> bool:
        """True when a quarter of the slots hold what nobody has moved away yet."""
        return 4 * (self._written - self._cells[_TAKEN]) >= self.slots

    def resume(self) -> None:
        """Continues where the previous writer ended; for a writer, before its first `append`."""
        self._written = self.written

    def append(self, entry: bytes) -> None:
        """Writes an entry over the oldest; for the ring's writer only."""
        written = self._written
        at = self._first + written % self.slots * self.entry_bytes
        self._map[at : at + len(entry)] = entry
        self._written = self._cells[_WRITTEN] = written + 1

    def extend(self, entries: bytes) -> None:
        """Writes several whole entries over the oldest, at most as many as slots; for the ring's writer only."""
        written, size = self.written, self.entry_bytes
        while entries:
            at = written % self.slots
            part = entries[: (self.slots - at) * size]
            start = self._first + at * size
            self._map[start : start + len(part)] = part
            entries = entries[len(part) :]
            written += len(part) // size
            self._cells[_WRITTEN] = written

    def take_from(self, other: Ring) -> None:
        """Moves the new entries of another ring to this one; for a single process per other ring."""
        written, taken = other.written, other._cells[_TAKEN]
        if written == taken:
            return
        if taken > written:
            taken = 0
        oldest, data = other._read(taken, written)
        for start in range(0, len(data), self.slots * self.entry_bytes):
            self.extend(data[start : start + self.slots * self.entry_bytes])
        other._cells[_MISSED] = other.missed + oldest - taken
        other._cells[_TAKEN] = written

    def entries(self, word: bytes = b"") -> list[bytes]:
        """Returns all entries that contain `word`, oldest first."""
        return self._split(self._read(0, self.written)[1], word)

    def since(self, number: int) -> list[bytes]:
        """Those that were written after so many, the oldest first, as far as they are there."""
        return self._split(self._read(number, self.written)[1], b"")

    def waiting(self, word: bytes = b"") -> list[bytes]:
        """Returns the entries that contain `word` and have not been moved away yet, oldest first."""
        return self._split(self._read(self._cells[_TAKEN], self.written)[1], word)

    def _read(self, start: int, end: int) -> tuple[int, bytes]:
        """Returns the number of the first entry that could be read, and the bytes of all entries from it on.

        The oldest of `slots` entries may be overwritten during the read, so it never counts.
        """
        size, data = self.entry_bytes, b""
        first = number = max(start, end + 1 - self.slots)
        while number < end:
            at = number % self.slots
            count = min(end - number, self.slots - at)
            place = self._first + at * size
            data += self._map[place : place + count * size]
            number += count
        lost = min(max(self.written + 1 - self.slots - first, 0), max(end - first, 0))
        return first + lost, data[lost * size :]

    def _split(self, data: bytes, word: bytes) -> list[bytes]:
        """Returns the entries that contain `word`; searches all bytes at once, because most entries do not."""
        found, size = [], self.entry_bytes
        at = 0
        while at < len(data) and (at := data.find(word, at)) >= 0:
            start = at - at % size
            entry = data[start : start + size]
            if word in entry:  # not a match across two entries
                found.append(entry)
            at = start + size
        return found


def area_bytes(slots: int, entry_bytes: int) -> int:
    """Returns the bytes of a ring."""
    return HEAD_BYTES + slots * entry_bytes
