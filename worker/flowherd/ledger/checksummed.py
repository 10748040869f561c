"""Bytes in shared memory that a reader can trust, because their length and CRC-32 stand before them."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap

CHECKSUM = struct.Struct("<II")  # length, CRC-32: precedes what `read_checksummed` reads


def checksummed(data: bytes) -> bytes:
    """The data with its length and CRC before it, to be sliced in as a whole."""
    return CHECKSUM.pack(len(data), zlib.crc32(data)) + data


def read_checksummed(map_: mmap.mmap | bytes, offset: int, limit: int) -> bytes | None:
    """The bytes that were written with their length and CRC before them; None when they do not check."""
    length, crc = CHECKSUM.unpack(map_[offset : offset + CHECKSUM.size])
    if length > limit:
        return None
    data = map_[offset + CHECKSUM.size : offset + CHECKSUM.size + length]
    return data if zlib.crc32(data) == crc else None
