"""Slots: which attempts may have a handler, and how many a poll under way may bring. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import KeysView

    from flowherd.worker.attempt import Attempt


class Slots:
    """A limit that can fall below what is in use.

    Nothing is taken away then: what has been claimed under the old limit begins and ends as if that still held, and
    each slot that none of it can need any more is given up for good. Polls get nothing until all fits again.

    Attributes:
        attempts: those that have one.
        reserved: those of the poll under way.
        limit: slots that may be held; see `resize`.
        usable: the limit, or more as long as what was claimed before it fell needs more.

    """

    def __init__(self, limit: int) -> None:
        self.limit = self.usable = limit
        self._attempts: dict[Attempt, None] = {}
        self.attempts: KeysView[Attempt] = self._attempts.keys()
        self.reserved = 0

    def __repr__(self) -> str:
        return f"<Slots [{len(self._attempts)} attempts, {self.reserved} reserved of {self.limit}]>"

    @property
    def held(self) -> int:
        """Slots in use, by attempts and by the poll under way."""
        return len(self._attempts) + self.reserved

    @property
    def in_use(self) -> int:
        """Slots that nobody else may have yet: those that are held, and those that are promised to what waits."""
        return self.usable if self.usable > self.limit else len(self._attempts) + self.reserved

    @property
    def free(self) -> int:
        """Slots that a poll can take, never negative."""
        return max(0, self.limit - len(self._attempts) - self.reserved)

    @property
    def is_any_free(self) -> bool:
        """True when an attempt that waits can have one."""
        return self.usable > len(self._attempts) + self.reserved

    def resize(self, limit: int) -> None:
        """Sets the limit; what is usable falls by and by, see `give_up`."""
        self.limit = limit
        self.usable = max(self.usable, limit)

    def give_up(self, waiting: int) -> None:
        """So many attempts wait for a slot: what neither they nor those that have one need is not usable any more."""
        self.usable = max(self.limit, min(self.usable, self.held + waiting))

    def reserve(self, most: int) -> int:
        """Takes up to `most` for a poll; how many it got."""
        taken = min(most, self.free)
        self.reserved += taken
        return taken

    def give_back(self, reserved: int) -> None:
        """The poll has ended."""
        assert 0 <= reserved <= self.reserved, (reserved, self)
        self.reserved -= reserved

    def enter(self, attempt: Attempt) -> None:
        """The attempt has one from now on."""
        self._attempts[attempt] = None

    def leave(self, attempt: Attempt) -> None:
        """Its slot is free."""
        del self._attempts[attempt]
