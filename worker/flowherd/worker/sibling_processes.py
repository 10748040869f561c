"""The sibling processes of a host: the state of their polling, and wakeups between them."""

from __future__ import annotations

from math import inf
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from flowherd.ledger.states_and_cells import Cell, Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowherd.ledger.all_segments import Segments
    from flowherd.ledger.segment import Segment
    from flowherd.ledger.wakeups import Wakeups

OVERDUE_S = 0.05  # a sibling that has missed its time by more than this is frozen, or its loop is blocked
_LOOK_AROUND_S = 5.0  # a new process may go unnoticed for this long; it sees the others at once
_WORKED_AT = Clock.WORKED_AT  # a module constant: written for each outcome


def _reader(*cells: Cell | Clock) -> Struct:
    """Returns a struct that reads these cells of a segment in one call; native mode reads each cell in one piece."""
    layout, after = "@", 0
    for cell in cells:
        assert cell >= after, "in ascending order"
        layout += f"{8 * (cell - after)}x{'d' if isinstance(cell, Clock) else 'Q'}"
        after = cell + 1
    return Struct(layout)


_read_cells = _reader(
    Cell.STARTED, Cell.ENDED, Cell.OPENED, Cell.RUNNING, Cell.ON_LOOP,
    Clock.LOOP_LAG_S, Clock.NEXT_POLL_AT, Clock.POLLED_AT, Clock.DRAINED_AT, Clock.WORKED_AT,
    Clock.PAUSE_S, Clock.LEARNED_AT,
).unpack_from  # fmt: skip


class Sibling(NamedTuple):
    """The polling state that a process publishes; all times are monotonic seconds, 0 for never.

    A tuple, because an idle process creates one for each sibling at each look, and does little else.

    Attributes:
        number: the number of its segment.
        next_poll_at: the time of its next poll; 0 while it does not poll: no free slot, a poll under way, a drain.
        polled_at: the start of its last poll.
        drained_at: the start of its last poll that brought fewer activities than requested: the queue was empty then.
        worked_at: the last time it got activities, or had an outcome acknowledged.
        load: the number of running activities.
        lag_s: the lag of its loop.
        is_on_loop: True while a handler occupies its loop.
        pause_s: seconds between a receipt and the poll for what follows, as it has learned them (`NextStep`).
        learned_at: the time of its last lesson.

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
        """True when it is expected to poll: it has free slots, and has not missed its time."""
        return not self.is_on_loop and self.next_poll_at > 0 and self.next_poll_at >= now - OVERDUE_S


class Siblings:
    """The other live incarnations of the host, read from their segments.

    Args:
        segments: all segments of the ledger; None for a process that is alone.
        own: this process's segment, the only one written to.
        wakeups: the wakeups of the host.

    Attributes:
        next_at: the time of this process's next poll, as published.

    """

    def __init__(self, segments: Segments | None, own: Segment, wakeups: Wakeups | None) -> None:
        self._segments = segments
        self._own = own
        self._wakeups = wakeups
        self._live: list[Segment] = []
        self._looked_at = -_LOOK_AROUND_S
        self.next_at = 0.0

    @classmethod
    def none(cls, own: Segment) -> Siblings:
        """Returns the siblings of a process that is alone: none."""
        return cls(None, own, None)

    def look(self, now: float) -> list[Sibling]:
        """Returns the published state of each sibling."""
        if now - self._looked_at >= _LOOK_AROUND_S:
            self._looked_at = now
            self._live = list(self._others())
        return [sibling for segment in self._live if (sibling := _seen(segment)) is not None]

    def _others(self) -> Iterator[Segment]:
        if self._segments is not None:
            yield from (self._segments[one] for one in self._segments.living() if one != self._own.number)

    @property
    def are_there(self) -> bool:
        """True when the last look around has found any."""
        return bool(self._live)

    def me(self) -> Sibling:
        """Returns the published state of this process."""
        seen = _seen(self._own)
        assert seen is not None, self._own
        return seen

    @property
    def own_load(self) -> int:
        """The number of running activities of this process."""
        return self._own.get(Cell.RUNNING)

    def say_next(self, at: float) -> None:
        """Publishes the time of this process's next poll, 0 for none."""
        self.next_at = at
        self._own.set_clock(Clock.NEXT_POLL_AT, at)

    def say_polled(self, began_at: float) -> None:
        """Publishes the start of a poll; until its end siblings do not expect another one."""
        self.say_next(0.0)
        self._own.set_clock(Clock.POLLED_AT, began_at)

    def say_drained(self, began_at: float) -> None:
        """Publishes that the poll that began at `began_at` has emptied the queue."""
        self._own.set_clock(Clock.DRAINED_AT, began_at)

    def say_worked(self, at: float) -> None:
        """Publishes the time at which activities came, or an outcome was acknowledged."""
        self._own.set_clock(_WORKED_AT, at)

    def say_pause(self, pause_s: float, at: float) -> None:
        """Publishes the pause between a receipt and the poll for what follows."""
        self._own.set_clock(Clock.PAUSE_S, pause_s)
        self._own.set_clock(Clock.LEARNED_AT, at)

    def wake(self, number: int) -> None:
        """Makes the process in this segment poll at once."""
        if self._wakeups is not None:
            self._wakeups.wake(number)


def _seen(segment: Segment) -> Sibling | None:
    """Returns the state in a segment; None when it belongs to no live process."""
    (
        started, ended, opened, load, on_loop,
        lag_s, next_at, polled_at, drained_at, worked_at, pause_s, learned_at,
    ) = _read_cells(segment.map, segment.offset)  # fmt: skip
    if started == ended or opened != started:
        return None
    if not 0.0 <= lag_s + next_at + polled_at + drained_at + worked_at + pause_s + learned_at < inf:
        return None  # the segment is corrupt: the supervisor ends that process
    return Sibling(
        segment.number, next_at, polled_at, drained_at, worked_at, load, lag_s, on_loop != 0, pause_s, learned_at
    )  # fmt: skip
