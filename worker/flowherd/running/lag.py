"""How late the loop is: a timer that runs only while a handler does, so that idle is free."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_EVERY_S = 0.25
_SLOWLY = 0.3  # weight of the newest reading


class LagProbe:
    """Measures by how much a timer fires late, smoothed.

    Args:
        busy: whether a handler runs; the probe ends by itself when none does.
        publish: stores the lag in seconds.

    """

    def __init__(self, busy: Callable[[], bool], publish: Callable[[float], None]) -> None:
        self._busy = busy
        self._publish = publish
        self._lag_s = 0.0
        self._due_at = 0.0
        self._running = False

    def start(self) -> None:
        """Begins to measure, unless it does already; must be called on the loop."""
        if not self._running:
            self._running = True
            self._schedule()

    def _schedule(self) -> None:
        self._due_at = time.monotonic() + _EVERY_S
        asyncio.get_running_loop().call_later(_EVERY_S, self._read)

    def _read(self) -> None:
        late_s = max(0.0, time.monotonic() - self._due_at)
        self._lag_s += _SLOWLY * (late_s - self._lag_s)
        self._running = self._busy()
        self._publish(self._lag_s if self._running else 0.0)
        if self._running:
            self._schedule()
        else:
            self._lag_s = 0.0
