"""The page on which an attempt's sums of money lie, so that a crash in mid-write leaves the sums before.

A page belongs to an attempt, not to a record: a repeated claim moves the record and leaves the page. It has two slots.
A write goes to the slot that does not hold the newest sums and carries the sequence of the attempt's first record, a
turn that grows, and a CRC over all of it. Readers take the newest slot that checks and is about the attempt they ask
for: what an earlier attempt left on the same page never counts, so nothing has to be cleared when a page is used again,
and an activity that spends nothing never touches it. Whoever runs the handler writes, be it the worker or an isolate.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap

_SLOT_BYTES = 2048
PAGE_BYTES = 2 * _SLOT_BYTES
_HEAD = struct.Struct("<IIQQ")  # CRC-32 of what follows, length; sequence, turn
_CRC_BYTES = 4
SUMS_BYTES = _SLOT_BYTES - _HEAD.size


class UsagePage:
    """The page of an attempt.

    Args:
        map_: of the ledger.
        offset: of the page.
        sequence: of the attempt's first record.

    """

    __slots__ = ("_map", "_offset", "_sequence")

    def __init__(self, map_: mmap.mmap | bytearray, offset: int, sequence: int) -> None:
        self._map = map_
        self._offset = offset
        self._sequence = sequence

    def read(self) -> bytes | None:
        """The sums last written whole; None when the attempt has spent nothing."""
        turn, sums = max(self._slot(0), self._slot(1))
        return sums if turn else None

    def keep(self, sums: bytes) -> None:
        """Keeps sums in place of those before; one call at a time.

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

    def _slot(self, number: int) -> tuple[int, bytes]:
        """Turn and sums of a slot; (0, b"") when it is empty, torn, or about another attempt."""
        start = self._offset + number * _SLOT_BYTES
        slot = bytes(self._map[start : start + _SLOT_BYTES])
        crc, length, sequence, turn = _HEAD.unpack_from(slot)
        end = _HEAD.size + length
        if not turn or length > SUMS_BYTES or zlib.crc32(slot[_CRC_BYTES:end]) != crc:
            return 0, b""
        return (turn, slot[_HEAD.size : end]) if sequence == self._sequence else (0, b"")
