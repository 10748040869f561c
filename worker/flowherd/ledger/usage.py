"""The layout of a record's sums of money, such that a crash in mid-write leaves the sums before; it knows no money.

Each record has two slots of half a page. A write goes to the slot that does not hold the newest sums and carries
the record's sequence, a turn that grows, and a CRC over all of it. Readers take the newest slot that checks and is
about the record they ask for: what an earlier record left in the same place never counts, so nothing has to be
cleared when a place is used again, and an activity that spends nothing never touches these pages.
"""

from __future__ import annotations

import struct
import zlib

SLOT_BYTES = 2048
AREA_BYTES = 2 * SLOT_BYTES  # of one record
_HEAD = struct.Struct("<IIQQ")  # CRC-32 of what follows, length; sequence, turn
_CRC_BYTES = 4
SUMS_BYTES = SLOT_BYTES - _HEAD.size


def newest(area: bytes, sequence: int) -> bytes | None:
    """The sums last written whole for the record of that sequence, None when there are none."""
    found = [slot for slot in (_read(area, 0), _read(area, SLOT_BYTES)) if slot and slot[1] == sequence]
    return max(found)[2] if found else None


def write_of(area: bytes, sequence: int, sums: bytes) -> tuple[int, bytes]:
    """The offset in the area and the bytes that keep `sums`.

    Args:
        area: the record's two slots as they are.
        sequence: of the record.
        sums: at most `SUMS_BYTES`.

    """
    assert len(sums) <= SUMS_BYTES, len(sums)
    turns = [
        slot[0] if slot and slot[1] == sequence else 0 for slot in (_read(area, 0), _read(area, SLOT_BYTES))
    ]
    older = turns.index(min(turns))
    tail = _HEAD.pack(0, len(sums), sequence, max(turns) + 1)[_CRC_BYTES:] + sums
    return older * SLOT_BYTES, zlib.crc32(tail).to_bytes(_CRC_BYTES, "little") + tail


def _read(area: bytes, offset: int) -> tuple[int, int, bytes] | None:
    """Turn, sequence and sums of one slot; None when it is empty or was not written to its end."""
    crc, length, sequence, turn = _HEAD.unpack_from(area, offset)
    end = offset + _HEAD.size + length
    if not turn or length > SUMS_BYTES or zlib.crc32(area[offset + _CRC_BYTES : end]) != crc:
        return None
    return turn, sequence, area[offset + _HEAD.size : end]
