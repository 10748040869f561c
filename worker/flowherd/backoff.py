"""Delays after failures: pure arithmetic, chance comes in as an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Rng(Protocol):
    """The part of `random.Random` that delays need."""

    def uniform(self, a: float, b: float, /) -> float:
        """A number between a and b."""
        ...


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays with full jitter (protocol.md R14): uniform(0, min(cap, base x factor^failures)).

    The lower end is a tenth of the upper one, so that a lucky draw never becomes a busy loop. Seconds.
    """

    base_s: float = 0.1
    cap_s: float = 10.0
    factor: float = 2.0

    def delay_s(self, failures: int, rng: Rng, *, asked_s: float = 0.0) -> float:
        """Seconds to wait after the `failures`-th failure in a row.

        `asked_s` is the engine's own wish (Retry-After), honoured up to 60 s (faults.md E7).
        """
        ceiling = min(self.cap_s, self.base_s * self.factor ** min(max(failures - 1, 0), 32))
        return max(rng.uniform(ceiling / 10, ceiling), min(max(asked_s, 0.0), 60.0))
