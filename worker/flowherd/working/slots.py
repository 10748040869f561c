"""Slots: the worker's permits to run; it counts and wakes, and never runs or polls anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Slots:
    """The child's semaphore: resizable permits, each held by one running activity or one place in a poll.

    Unlike `asyncio.Semaphore` it can shrink below what is held (permits then disappear as they are given
    back), and hands out several permits at once.

    Args:
        limit: how many may be held.
        changed: called after each change, to publish it and to wake whoever waits for a permit.

    """

    def __init__(self, limit: int, changed: Callable[[], None]) -> None:
        self._limit = limit
        self._held = 0
        self._changed = changed

    def __repr__(self) -> str:
        return f"<Slots [{self._held} held of {self._limit}]>"

    @property
    def limit(self) -> int:
        """How many may be held."""
        return self._limit

    @property
    def held(self) -> int:
        """How many are held; more than `limit` after a shrink or a surplus."""
        return self._held

    @property
    def free(self) -> int:
        """How many `take` would give, never negative."""
        return max(0, self._limit - self._held)

    def resize(self, limit: int) -> None:
        """Sets the limit; what is held stays held until it is given back."""
        self._limit = limit
        self._changed()

    def take(self, most: int) -> int:
        """Takes up to `most` free permits at once and returns how many it got, 0 included."""
        taken = min(most, self.free)
        if taken:
            self._held += taken
            self._changed()
        return taken

    def give_back(self, count: int = 1) -> None:
        """Returns permits and wakes whoever waits."""
        assert 0 <= count <= self._held, (count, self)
        self._held -= count
        if count:
            self._changed()
