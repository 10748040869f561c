"""The cells of a segment by which what a dead process has not begun goes to another one; it decides nothing.

The protocol is `flowherd.leases.adoption`'s. The keeper writes offers and decisions, the segment's worker the rest:
which replies to polls are kept here, which of them brought a record, and what a record would take over.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import TYPE_CHECKING, Any

from flowherd.ledger.checksummed import CHECKSUM, checksummed, read_checksummed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowherd.ledger.record import Record

REPLIES_BYTES = 4 << 20
LARGEST_REPLY = 1 << 20  # a copy takes about a millisecond; what a larger one brought is requeued
FAIL = 1  # a decision: nobody adopts it; any other is the sequence of the record that does
_ALIGNED = 64
_PLACE_BITS = 32
_PLACE = (1 << _PLACE_BITS) - 1
_CELLS = 5  # words a record


def adoption_bytes(records: int) -> int:
    """Bytes of the area of a segment of so many records, in whole pages."""
    return -(-8 * _CELLS * records // mmap.PAGESIZE) * mmap.PAGESIZE + REPLIES_BYTES


class AdoptionCells:
    """The area of one segment.

    Args:
        map_: the ledger's.
        offset: of the area, on a page of its own.
        records: of the segment.

    """

    def __init__(self, map_: mmap.mmap, offset: int, records: int) -> None:
        self.map = map_
        self.replies_at = offset + adoption_bytes(records) - REPLIES_BYTES
        cells: Any = memoryview(map_)[offset : offset + 8 * _CELLS * records].cast("Q")
        self._offers: memoryview[int] = cells[:records]
        self._decisions: memoryview[int] = cells[records : 3 * records]
        self._origins: memoryview[int] = cells[3 * records : 4 * records]
        self._replies: memoryview[int] = cells[4 * records :]

    # The keeper's

    def offer(self, index: int, life_number: int) -> None:
        """Offers a record to an incarnation; it binds nobody."""
        self._offers[index] = life_number

    def offered_to(self, life_number: int) -> Iterator[int]:
        """The indices of the records that were offered to an incarnation last."""
        for index, number in enumerate(self._offers.tolist()):
            if number == life_number:
                yield index

    def decide(self, record: Record, decision: int) -> int:
        """Stores for good who goes on with a record: `FAIL`, or the sequence of the record that takes it over.

        It counts once the second word is stored: what an earlier record has left in the place names another sequence.

        Returns:
            The decision that holds, which is an earlier one if there is any.

        """
        if earlier := self.decision(record):
            return earlier
        self._decisions[2 * record.index] = decision
        self._decisions[2 * record.index + 1] = record.sequence
        return decision

    def decision(self, record: Record) -> int:
        """The decision about a record, 0 before."""
        decision, sequence = self._decisions[2 * record.index : 2 * record.index + 2]
        return decision if sequence == record.sequence else 0

    def forget_replies(self) -> None:
        """Gives the memory of all kept replies back to the kernel."""
        with contextlib.suppress(OSError):  # of a kernel that cannot: the next worker writes over them
            self.map.madvise(mmap.MADV_REMOVE, self.replies_at, REPLIES_BYTES)

    # The worker's

    def note_claim(self, index: int, place: int, adoptions: int) -> None:
        """The place of the kept reply that brought a record, 0 for none, and how often it has been adopted."""
        self._replies[index] = adoptions << _PLACE_BITS | place

    def note_origin(self, index: int, sequence: int) -> None:
        """The sequence of the record that this one would take over."""
        self._origins[index] = sequence

    # For all

    def origin(self, index: int) -> int:
        """The sequence of the record that an ADOPTING one would take over."""
        return self._origins[index]

    def adoptions(self, index: int) -> int:
        """The number of times that the claim of a record has been adopted."""
        return self._replies[index] >> _PLACE_BITS

    def reply_place(self, index: int) -> int:
        """The place of the reply that brought a record, 0 if it was not kept."""
        return self._replies[index] & _PLACE

    def reply(self, place: int) -> bytes | None:
        """A kept reply, as it came; None if somebody has scribbled there."""
        room = REPLIES_BYTES - CHECKSUM.size - (place - 1)
        if not 0 < place <= REPLIES_BYTES - CHECKSUM.size:
            return None
        return read_checksummed(self.map, self.replies_at + place - 1, room) or None


class KeptReply:
    """A reply in shared memory.

    Attributes:
        place: of it, never 0.
        end: offset behind it.
        users: records that name it, and whoever is about to write some.

    """

    __slots__ = ("end", "place", "users")

    def __init__(self, start: int, end: int) -> None:
        self.place = start + 1
        self.end = end
        self.users = 1


class KeptReplies:
    """The replies that a worker keeps: each once, for all the records that it brought, in the first room that fits.

    Args:
        cells: of the worker's segment.

    """

    def __init__(self, cells: AdoptionCells) -> None:
        self._map = cells.map
        self._first = cells.replies_at
        self._free = [(0, REPLIES_BYTES)]

    def __repr__(self) -> str:
        free = sum(end - start for start, end in self._free)
        return f"<KeptReplies [{REPLIES_BYTES - free} of {REPLIES_BYTES} bytes, {len(self._free)} gaps]>"

    def keep(self, reply: bytes) -> KeptReply | None:
        """Copies a reply, for its first user; None when it is empty or too large, or there is no room."""
        if not 0 < len(reply) <= LARGEST_REPLY:
            return None
        wanted = -(-(CHECKSUM.size + len(reply)) // _ALIGNED) * _ALIGNED
        found = next((gap for gap in self._free if gap[1] - gap[0] >= wanted), None)
        if found is None:
            return None
        start, end = found
        kept = KeptReply(start, start + wanted)
        number = self._free.index(found)
        self._free[number : number + 1] = [(kept.end, end)] if kept.end < end else []
        data = checksummed(reply)
        self._map[self._first + start : self._first + start + len(data)] = data
        return kept

    def leave(self, kept: KeptReply) -> None:
        """A user less; behind the last one the room is free."""
        kept.users -= 1
        if kept.users:
            return
        start, end, free = kept.place - 1, kept.end, self._free
        number = next((n for n, (begin, _) in enumerate(free) if begin > start), len(free))
        if number < len(free) and free[number][0] == end:
            end = free.pop(number)[1]
        if number and free[number - 1][1] == start:
            number -= 1
            start = free.pop(number)[0]
        free.insert(number, (start, end))
