"""The pauses between restarts and the rule for giving up; `exits_and_restarts.py` applies them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

SHORT_S = 2.0  # an exit later than this after Ready is not a boot problem
ONCE_PER_S = 1.0  # no process starts more often than this
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0


class Rng(Protocol):
    """The part of `random.Random` that is needed here."""

    def uniform(self, a: float, b: float, /) -> float:
        """Returns a random number between a and b."""
        ...


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Restart intensity and period.

    Args:
        max_restarts: short ends of all processes tolerated within the window; 0 means never give up.
        window_s: length of the window in seconds.

    """

    max_restarts: int = 10
    window_s: float = 60.0

    def is_short(self, *, ready_at: float | None, ended_at: float, running: int) -> bool:
        """True for an exit before Ready, or within 2 s after it with nothing running."""
        return ready_at is None or (ended_at - ready_at < SHORT_S and not running)

    def wait_s(self, short_in_row: int, *, since_start_s: float, rng: Rng) -> float:
        """Seconds until the next start: 0 after a long life; 0, 0.5, 1 … 30 after short ones, ± 20 %.

        Starts are at least a second apart, except after the first short end.
        """
        if short_in_row <= 1:
            return max(0.0, ONCE_PER_S - since_start_s) if short_in_row == 0 else 0.0
        wait_s = min(_FIRST_WAIT_S * 2.0 ** min(short_in_row - 2, 16), _LONGEST_WAIT_S)
        return wait_s * rng.uniform(0.8, 1.2)

    def gives_up(self, short_ends: tuple[float, ...], now: float) -> bool:
        """True if too many short ends lie within the window."""
        return self.max_restarts > 0 and len(self.recent(short_ends, now)) > self.max_restarts

    def recent(self, short_ends: tuple[float, ...], now: float) -> tuple[float, ...]:
        """Returns the times within the window."""
        return tuple(at for at in short_ends if now - at < self.window_s)
