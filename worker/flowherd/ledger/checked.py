"""Bytes in shared memory that a reader can trust, because their length and CRC-32 stand before them."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap

CHECKED = struct.Struct("<II")  # length, CRC-32: precedes what `read_checked` reads


def checked(data: bytes) -> bytes:
    """The data with its length and CRC before it, to be sliced in as a whole."""
    return CHECKED.pack(len(data), zlib.crc32(data)) + data


def read_checked(map_: mmap.mmap | bytes, offset: int, limit: int) -> bytes | None:
    """The bytes that were written with their length and CRC before them; None when they do not check."""
    length, crc = CHECKED.unpack(map_[offset : offset + CHECKED.size])
    if length > limit:
        return None
    data = map_[offset + CHECKED.size : offset + CHECKED.size + length]
    return data if zlib.crc32(data) == crc else None
