"""Delays after failures. Pure: the source of randomness is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Protocol

_BEYOND_S = 0.5


class Rng(Protocol):
    """The method of `random.Random` that delays need."""

    def uniform(self, a: float, b: float, /) -> float:
        """Returns a number between a and b."""
        ...


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays with full jitter (protocol.md R14): uniform(0, min(cap, base x factor^failures)).

    The lower bound is a tenth of the upper one, so that short delays never become a busy loop. Beyond the first, no
    delay is half a second longer than the trouble has lasted: a blip costs itself (faults.md N24). Times in seconds.
    """

    base_s: float = 0.1
    cap_s: float = 10.0
    factor: float = 2.0

    def delay_s(self, failures: int, rng: Rng, *, asked_s: float = 0.0, lasted_s: float = inf) -> float:
        """Returns the seconds to wait after the `failures`-th consecutive failure.

        Args:
            failures: at least 1.
            rng: the source of the jitter.
            asked_s: the engine's Retry-After, respected up to 60 s (faults.md E7).
            lasted_s: seconds since the first of these failures.

        """
        ceiling = min(self.cap_s, self.base_s * self.factor ** min(max(failures - 1, 0), 32))
        ceiling = min(ceiling, lasted_s + max(self.base_s, _BEYOND_S))
        return max(rng.uniform(ceiling / 10, ceiling), min(max(asked_s, 0.0), 60.0))
