"""The pauses between restarts, and when to give up; `exits_and_restarts.py` restarts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

SHORT_S = 2.0  # an incarnation that lived this long after Ready is no boot problem
ONCE_PER_S = 1.0  # no process starts more often than this
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0


class Rng(Protocol):
    """The part of `random.Random` that waits need."""

    def uniform(self, a: float, b: float, /) -> float:
        """A number between a and b."""
        ...


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Restart intensity and period, in supervision words.

    Args:
        max_restarts: short ends over all processes that are tolerated in the window; 0 means never give up.
        window_s: length of that window.

    """

    max_restarts: int = 10
    window_s: float = 60.0

    def is_short(self, *, ready_at: float | None, ended_at: float, running: int) -> bool:
        """True for an end before Ready, or within 2 s after it with nothing running."""
        return ready_at is None or (ended_at - ready_at < SHORT_S and not running)

    def wait_s(self, short_in_row: int, *, since_start_s: float, rng: Rng) -> float:
        """Seconds until the next start: at once after a long life; 0, 0.5, 1 … 30 after short ones, ± 20 %.

        No process starts twice within a second, unless its first short end says that it may.
        """
        if short_in_row <= 1:
            return max(0.0, ONCE_PER_S - since_start_s) if short_in_row == 0 else 0.0
        wait_s = min(_FIRST_WAIT_S * 2.0 ** min(short_in_row - 2, 16), _LONGEST_WAIT_S)
        return wait_s * rng.uniform(0.8, 1.2)

    def gives_up(self, short_ends: tuple[float, ...], now: float) -> bool:
        """True when too many short ends lie within the window."""
        return self.max_restarts > 0 and len(self.recent(short_ends, now)) > self.max_restarts

    def recent(self, short_ends: tuple[float, ...], now: float) -> tuple[float, ...]:
        """The times that still count."""
        return tuple(at for at in short_ends if now - at < self.window_s)
