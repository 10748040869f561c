"""Lets tasks wait until something has come true of a table that others change; it keeps no table."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Changes:
    """Wakes those that wait, at each change; saying that there was one costs next to nothing."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Event] = set()

    def note(self) -> None:
        """There was a change."""
        for waiter in self._waiters:
            waiter.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Returns when `is_so`; asked at once, and after each change."""
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            while not is_so():
                waiter.clear()
                await waiter.wait()
        finally:
            self._waiters.discard(waiter)
