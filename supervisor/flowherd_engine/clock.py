"""The engine's clock, and the formats of times and ids in the API; the engine reads no other clock."""

import os
import time
from datetime import UTC, datetime
from uuid import UUID


class Clock:
    """Seconds since the epoch; tests substitute a clock that they can advance."""

    def now_s(self) -> float:
        """Returns the engine's current time."""
        return time.time()


def iso(at_s: float | None) -> str | None:
    """Formats a time as RFC 3339 in UTC with microseconds, as the server does."""
    if at_s is None:
        return None
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def version_at(at_s: float) -> str:
    """Formats a definition's version, `YYYYmmdd.HHMMSS.uuuuuu` (protocol.md §11.1)."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y%m%d.%H%M%S.%f")


def uuid7() -> str:
    """Returns a time-ordered UUID, so that the index on ids grows at its end."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (
        (milliseconds & (1 << 48) - 1) << 80 | random & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62
    )
    return str(UUID(int=value))
