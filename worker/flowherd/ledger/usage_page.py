"""The usage page, which holds an attempt's sums so that a crash during a write leaves the previous sums.

A page belongs to an attempt, not to a record: a repeated claim moves the record but not the page. A page has two slots.
A write goes to the slot that does not hold the newest sums, with the sequence of the attempt's first record, a growing
turn, and a CRC over all of it. Readers take the newest valid slot of the attempt they ask for: sums of an earlier
attempt on the same page never count, so a page need not be cleared for reuse, and an activity without usage never
touches it. The process that runs the handler writes, the worker or an isolate.

An isolate also notes on the page that its handler waits (`await`), so that a death from outside is known as that.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap

PAGE_BYTES = 4096
_WAIT = struct.Struct("<Q")  # the sequence of the attempt whose handler waits, else 0; the end of the page
_WAIT_AT = PAGE_BYTES - _WAIT.size
_SLOT_BYTES = _WAIT_AT // 2
_HEAD = struct.Struct("<IIQQ")  # CRC-32 of what follows, length; sequence, turn
_CRC_BYTES = 4
SUMS_BYTES = _SLOT_BYTES - _HEAD.size


class UsagePage:
    """The usage page of an attempt.

    Args:
        map_: the ledger's map.
        offset: the offset of the page.
        sequence: the sequence of the attempt's first record.

    """

    __slots__ = ("_map", "_offset", "_sequence")

    def __init__(self, map_: mmap.mmap | bytearray, offset: int, sequence: int) -> None:
        self._map = map_
        self._offset = offset
        self._sequence = sequence

    def read(self) -> bytes | None:
        """Returns the last sums that were written whole; None when the attempt has no usage."""
        turn, sums = max(self._slot(0), self._slot(1))
        return sums if turn else None

    def keep(self, sums: bytes) -> None:
        """Replaces the sums; must not be called concurrently.

        Args:
            sums: at most `SUMS_BYTES`.

        """
        assert len(sums) <= SUMS_BYTES, len(sums)
        turns = [self._slot(number)[0] for number in range(2)]
        start = self._offset + turns.index(min(turns)) * _SLOT_BYTES
        tail = _HEAD.pack(0, len(sums), self._sequence, max(turns) + 1)[_CRC_BYTES:] + sums
        self._map[start : start + _CRC_BYTES + len(tail)] = (
            zlib.crc32(tail).to_bytes(_CRC_BYTES, "little") + tail
        )

    def note_wait(self, *, waits: bool) -> None:
        """Stores whether the handler waits; for its isolate only."""
        start = self._offset + _WAIT_AT
        self._map[start : start + _WAIT.size] = _WAIT.pack(self._sequence if waits else 0)

    @property
    def waits(self) -> bool:
        """True while the handler waits in an isolate; False also when nobody has said so."""
        return bool(_WAIT.unpack_from(self._map, self._offset + _WAIT_AT)[0] == self._sequence)

    def _slot(self, number: int) -> tuple[int, bytes]:
        """Returns turn and sums of a slot; (0, b"") when it is empty, torn, or of another attempt."""
        start = self._offset + number * _SLOT_BYTES
        slot = bytes(self._map[start : start + _SLOT_BYTES])
        crc, length, sequence, turn = _HEAD.unpack_from(slot)
        end = _HEAD.size + length
        if not turn or length > SUMS_BYTES or zlib.crc32(slot[_CRC_BYTES:end]) != crc:
            return 0, b""
        return (turn, slot[_HEAD.size : end]) if sequence == self._sequence else (0, b"")
