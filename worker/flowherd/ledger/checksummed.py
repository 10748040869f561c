"""Bytes in shared memory, with their length and CRC-32 in front so that readers can detect torn writes."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap

CHECKSUM = struct.Struct("<II")  # length, CRC-32


def checksummed(data: bytes) -> bytes:
    """Returns the data with its length and CRC in front, to be written in one slice."""
    return CHECKSUM.pack(len(data), zlib.crc32(data)) + data


def read_checksummed(map_: mmap.mmap | bytes, offset: int, limit: int) -> bytes | None:
    """Reads bytes written by `checksummed`; None when the length or CRC is wrong."""
    length, crc = CHECKSUM.unpack(map_[offset : offset + CHECKSUM.size])
    if length > limit:
        return None
    data = map_[offset + CHECKSUM.size : offset + CHECKSUM.size + length]
    return data if zlib.crc32(data) == crc else None
