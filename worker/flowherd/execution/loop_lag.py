"""Measures the lag of the loop with a timer that runs only while a handler does, so an idle process pays nothing."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_EVERY_S = 0.25
_SLOWLY = 0.3  # weight of the newest reading in the mean


class Readings(Protocol):
    """A receiver of readings of the lag. Times are in seconds."""

    def begins(self) -> None:
        """Called at the start of a period with handlers."""
        ...

    def reads(self, late_s: float, elapsed_s: float, smoothed_s: float) -> None:
        """Called with each reading: the timer was due after `elapsed_s - late_s`; `smoothed_s` is 0 with no handler."""
        ...


class LagProbe:
    """Measures by how much a timer fires late.

    Args:
        busy: returns True while a handler runs; the probe stops when none does.
        readings: receives the readings.

    """

    def __init__(self, busy: Callable[[], bool], readings: Readings) -> None:
        self._busy = busy
        self._readings = readings
        self._lag_s = 0.0
        self._due_at = 0.0
        self._running = False

    def start(self) -> None:
        """Begins to measure, unless already running; must be called on the loop."""
        if not self._running:
            self._running = True
            self._readings.begins()
            self._schedule()

    def _schedule(self) -> None:
        self._due_at = time.monotonic() + _EVERY_S
        asyncio.get_running_loop().call_later(_EVERY_S, self._read)

    def _read(self) -> None:
        late_s = max(0.0, time.monotonic() - self._due_at)
        self._lag_s += _SLOWLY * (late_s - self._lag_s)
        self._running = self._busy()
        self._readings.reads(late_s, _EVERY_S + late_s, self._lag_s if self._running else 0.0)
        if self._running:
            self._schedule()
        else:
            self._lag_s = 0.0
