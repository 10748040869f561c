"""A timer of the loop that counts only time in which the process is awake, so a freeze does not use up a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowherd.awake_clock import Patience

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class AwakeTimer:
    """Calls `then` after `seconds` of awake time, unless it is cancelled before (faults.md N4).

    A handler that blocks the loop for up to a second does not count as a freeze.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, then: Callable[[], None]) -> None:
        self._loop = loop
        self._then = then
        self._patience = Patience(seconds, loop.time())
        self._timer = loop.call_later(self._patience.next_wait_s(loop.time()), self._wake)

    def cancel(self) -> None:
        """Stops the timer."""
        self._timer.cancel()

    def _wake(self) -> None:
        wait_s = self._patience.next_wait_s(self._loop.time())
        if wait_s > 0:
            self._timer = self._loop.call_later(wait_s, self._wake)
        else:
            self._then()
