"""How the processes of a host see each other's polling, and wake each other; it decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowherd.core.pacing import Sibling
from flowherd.shared.cells import Cell, Clock, Life

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowherd.shared.bells import Bells
    from flowherd.shared.berth import Berth
    from flowherd.shared.berths import Berths

_LOOK_AROUND_S = 2.0  # how long a new process may go unnoticed; it notices the others at once
_WORKED_AT = Clock.WORKED_AT  # written for each outcome


class Siblings:
    """The other live incarnations of the host, read from their berths.

    Args:
        berths: all of the ledger; None for a process that is alone.
        own: this process's; the only one that is written to.
        bells: the host's.

    """

    def __init__(self, berths: Berths | None, own: Berth, bells: Bells | None) -> None:
        self._berths = berths
        self._own = own
        self._bells = bells
        self._live: list[Berth] = []
        self._looked_at = -_LOOK_AROUND_S

    @classmethod
    def none(cls, own: Berth) -> Siblings:
        """For a process that is alone."""
        return cls(None, own, None)

    def look(self, now: float) -> list[Sibling]:
        """What each of them says of itself."""
        if now - self._looked_at >= _LOOK_AROUND_S:
            self._looked_at = now
            self._live = list(self._others())
        return [_seen(one) for one in self._live if one.life is Life.LIVE and one.readable]

    def _others(self) -> Iterator[Berth]:
        if self._berths is not None:
            yield from (self._berths[one] for one in self._berths.living() if one != self._own.number)

    def me(self) -> Sibling:
        """What this process has published."""
        return _seen(self._own)

    def say_next(self, at: float) -> None:
        """Publishes this process's place in the calendar, 0 for none."""
        self._own.set_clock(Clock.NEXT_POLL_AT, at)

    def say_polled(self, began_at: float) -> None:
        """Publishes that a poll begins: nobody can count on this process until it has ended."""
        self._own.set_clock(Clock.NEXT_POLL_AT, 0.0)
        self._own.set_clock(Clock.POLLED_AT, began_at)

    def say_drained(self, began_at: float) -> None:
        """Publishes that the poll that began then has emptied the queue."""
        self._own.set_clock(Clock.DRAINED_AT, began_at)

    def say_worked(self, at: float) -> None:
        """Publishes that there was work, or that an outcome was acknowledged."""
        self._own.set_clock(_WORKED_AT, at)

    def wake(self, number: int) -> None:
        """Has the process in that berth poll at once."""
        if self._bells is not None:
            self._bells.ring(number)


def _seen(berth: Berth) -> Sibling:
    return Sibling(
        number=berth.number,
        next_poll_at=berth.clock(Clock.NEXT_POLL_AT),
        polled_at=berth.clock(Clock.POLLED_AT),
        drained_at=berth.clock(Clock.DRAINED_AT),
        worked_at=berth.clock(Clock.WORKED_AT),
        load=berth.get(Cell.RUNNING),
        lag_s=berth.clock(Clock.LOOP_LAG_S),
        is_on_loop=berth.get(Cell.ON_LOOP) != 0,
    )
