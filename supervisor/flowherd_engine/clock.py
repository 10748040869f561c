"""The engine's time, and how the API writes times and ids; nothing else in the engine reads a clock."""

import os
import time
from datetime import UTC, datetime
from uuid import UUID


class Clock:
    """Seconds since the epoch; tests put one in its place that they can move."""

    def now_s(self) -> float:
        """The engine's present time."""
        return time.time()


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
