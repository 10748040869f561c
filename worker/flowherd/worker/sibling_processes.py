"""The processes of a host as they see each other's polling, and wake each other; it decides nothing."""

from __future__ import annotations

from math import isfinite
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from flowherd.ledger.states_and_cells import Cell, Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowherd.ledger.all_segments import Segments
    from flowherd.ledger.segment import Segment
    from flowherd.ledger.wakeups import Wakeups

OVERDUE_S = 0.05  # a sibling that has missed its own time by more is frozen, or its loop is blocked
_LOOK_AROUND_S = 2.0  # how long a new process may go unnoticed; it notices the others at once
_WORKED_AT = Clock.WORKED_AT  # written for each outcome


def _reader(*cells: Cell | Clock) -> Struct:
    """Reads these cells of a segment in one call, in ascending order; in native mode each of them in one piece."""
    layout, after = "@", 0
    for cell in cells:
        assert cell >= after, "in ascending order"
        layout += f"{8 * (cell - after)}x{'d' if isinstance(cell, Clock) else 'Q'}"
        after = cell + 1
    return Struct(layout)


_said = _reader(
    Cell.STARTED, Cell.ENDED, Cell.OPENED, Cell.RUNNING, Cell.ON_LOOP,
    Clock.LOOP_LAG_S, Clock.NEXT_POLL_AT, Clock.POLLED_AT, Clock.DRAINED_AT, Clock.WORKED_AT,
    Clock.PAUSE_S, Clock.LEARNED_AT,
).unpack_from  # fmt: skip


class Sibling(NamedTuple):
    """A process as it publishes its polling; all times are monotonic seconds, 0 for never.

    A tuple, since an idle process makes one for each sibling at each look, and does little else.

    Attributes:
        number: of its segment.
        next_poll_at: its place in the calendar; 0 while it does not poll: no free slot, a poll under way, a drain.
        polled_at: when its last poll began.
        drained_at: when its last poll began that brought less than it had asked for: the queue was empty then.
        worked_at: when it last got work, or had an outcome acknowledged.
        load: activities at work.
        lag_s: how late its loop is.
        is_on_loop: whether a handler keeps its loop at this moment.
        pause_s: between a receipt and the poll for what follows, as it has learned (`NextStep`).
        learned_at: when it did so last.

    """

    number: int
    next_poll_at: float = 0.0
    polled_at: float = 0.0
    drained_at: float = 0.0
    worked_at: float = 0.0
    load: int = 0
    lag_s: float = 0.0
    is_on_loop: bool = False
    pause_s: float = 0.0
    learned_at: float = 0.0

    def will_poll(self, now: float) -> bool:
        """True when it can be counted on: it has free slots, and has not missed its own time."""
        return not self.is_on_loop and self.next_poll_at > 0 and self.next_poll_at >= now - OVERDUE_S


class Siblings:
    """The other live incarnations of the host, read from their segments.

    Args:
        segments: all of the ledger; None for a process that is alone.
        own: this process's; the only one that is written to.
        wakeups: the host's.

    """

    def __init__(self, segments: Segments | None, own: Segment, wakeups: Wakeups | None) -> None:
        self._segments = segments
        self._own = own
        self._wakeups = wakeups
        self._live: list[Segment] = []
        self._looked_at = -_LOOK_AROUND_S

    @classmethod
    def none(cls, own: Segment) -> Siblings:
        """For a process that is alone."""
        return cls(None, own, None)

    def look(self, now: float) -> list[Sibling]:
        """The published state of each of them."""
        if now - self._looked_at >= _LOOK_AROUND_S:
            self._looked_at = now
            self._live = list(self._others())
        return [said for one in self._live if (said := _seen(one)) is not None]

    def _others(self) -> Iterator[Segment]:
        if self._segments is not None:
            yield from (self._segments[one] for one in self._segments.living() if one != self._own.number)

    def me(self) -> Sibling:
        """The published state of this process."""
        seen = _seen(self._own)
        assert seen is not None, self._own
        return seen

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

    def say_pause(self, pause_s: float, at: float) -> None:
        """Publishes the pause between a receipt and the poll for what follows."""
        self._own.set_clock(Clock.PAUSE_S, pause_s)
        self._own.set_clock(Clock.LEARNED_AT, at)

    def wake(self, number: int) -> None:
        """Has the process in that segment poll at once."""
        if self._wakeups is not None:
            self._wakeups.wake(number)


def _seen(segment: Segment) -> Sibling | None:
    """None while nothing there belongs to a process that lives."""
    (
        started,
        ended,
        opened,
        load,
        on_loop,
        lag_s,
        next_at,
        polled_at,
        drained_at,
        worked_at,
        pause_s,
        learned_at,
    ) = _said(segment.map, segment.offset)
    if started == ended or opened != started:
        return None
    if not isfinite(lag_s + next_at + polled_at + drained_at + worked_at + pause_s + learned_at):
        return None  # somebody has scribbled there: the supervisor ends that process
    return Sibling(
        segment.number,
        next_at,
        polled_at,
        drained_at,
        worked_at,
        load,
        lag_s,
        on_loop != 0,
        pause_s,
        learned_at,
    )
