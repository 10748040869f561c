"""The engine's time: the wall clock plus what tests have added; nothing else in the engine reads a clock."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from uuid import UUID

__all__ = ["Clock", "iso", "uuid7", "version_at"]


class Clock:
    """Seconds since the epoch, movable forwards (`POST /__test__/clock`)."""

    def __init__(self) -> None:
        self._added_s = 0.0

    def now_s(self) -> float:
        """The engine's present time."""
        return time.time() + self._added_s

    def advance(self, by_s: float) -> None:
        """Let `by_s` seconds pass at once; leases, backoffs and timeouts all see it."""
        self._added_s += by_s


def iso(at_s: float | None) -> str | None:
    """RFC 3339 in UTC with microseconds, as the server writes times."""
    if at_s is None:
        return None
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def version_at(at_s: float) -> str:
    """A definition's version, `YYYYmmdd.HHMMSS.uuuuuu` (protocol.md §11.1)."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y%m%d.%H%M%S.%f")


def uuid7() -> str:
    """A time-ordered UUID, so that the index on ids grows at its end."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (
        (milliseconds & (1 << 48) - 1) << 80 | random & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62
    )
    return str(UUID(int=value))
