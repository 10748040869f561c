"""Slots: the permits for attempts to have a handler, and for polls to bring activities. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import KeysView

    from flowherd.worker.attempt import Attempt


class Slots:
    """The slots of a worker, whose limit can fall below the number in use.

    No slot is taken away then: attempts claimed under the old limit begin and end as before, and each slot that none of
    them can need any more is given up for good. Polls get no slots until all attempts fit again.

    Attributes:
        attempts: the attempts that hold a slot.
        reserved: the slots of the poll under way.
        limit: the number of slots; see `resize`.
        usable: the limit, or more while attempts claimed under a higher limit need more.

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
        """Slots that no other process may have yet: held ones, and after a fall of the limit those still needed."""
        return self.usable if self.usable > self.limit else len(self._attempts) + self.reserved

    @property
    def free(self) -> int:
        """Slots that a poll can reserve, never negative."""
        return max(0, self.limit - len(self._attempts) - self.reserved)

    @property
    def is_any_free(self) -> bool:
        """True when a waiting attempt can get a slot."""
        return self.usable > len(self._attempts) + self.reserved

    def resize(self, limit: int) -> None:
        """Sets the limit; `usable` falls gradually, see `give_up`."""
        self.limit = limit
        self.usable = max(self.usable, limit)

    def give_up(self, waiting: int) -> None:
        """Lowers `usable` to the slots that are held or needed by `waiting` attempts, at least the limit."""
        self.usable = max(self.limit, min(self.usable, self.held + waiting))

    def reserve(self, most: int) -> int:
        """Reserves up to `most` slots for a poll; returns their number."""
        taken = min(most, self.free)
        self.reserved += taken
        return taken

    def give_back(self, reserved: int) -> None:
        """Returns the reserved slots at the end of the poll."""
        assert 0 <= reserved <= self.reserved, (reserved, self)
        self.reserved -= reserved

    def enter(self, attempt: Attempt) -> None:
        """Gives the attempt a slot."""
        self._attempts[attempt] = None

    def leave(self, attempt: Attempt) -> None:
        """Frees the attempt's slot."""
        del self._attempts[attempt]
