"""The polling state that the processes of a host publish in their cells, and the wakeup of a freer one."""

from __future__ import annotations

from math import inf
from struct import Struct
from typing import TYPE_CHECKING

from flowherd.ledger.states_and_cells import Cell, Clock
from flowherd.worker.polling.rule import Said

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowherd.ledger.all_segments import Segments
    from flowherd.ledger.segment import Segment
    from flowherd.ledger.wakeups import Wakeups

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
    Cell.STARTED, Cell.ENDED, Cell.OPENED, Cell.LIMIT, Cell.RUNNING,
    Clock.POLL_PAUSE_S, Clock.POLLED_AT, Clock.WORKED_AT, Clock.STEP_S, Clock.LEARNED_AT,
).unpack_from  # fmt: skip


class Siblings:
    """The other live incarnations of the host, read from their segments.

    Args:
        segments: all segments of the ledger; None for a process that is alone.
        own: this process's segment, the only one written to.
        wakeups: the wakeups of the host.

    """

    def __init__(self, segments: Segments | None, own: Segment, wakeups: Wakeups | None) -> None:
        self._segments = segments
        self._own = own
        self._wakeups = wakeups
        self._live: list[Segment] = []
        self._looked_at = -_LOOK_AROUND_S

    @classmethod
    def none(cls, own: Segment) -> Siblings:
        """Returns the siblings of a process that is alone: none."""
        return cls(None, own, None)

    def look(self, now: float) -> list[Said]:
        """Returns the published state of each sibling."""
        if now - self._looked_at >= _LOOK_AROUND_S:
            self._looked_at = now
            self._live = list(self._others())
        return [said for segment in self._live if (said := said_in(segment)) is not None]

    def _others(self) -> Iterator[Segment]:
        if self._segments is not None:
            yield from (self._segments[one] for one in self._segments.living() if one != self._own.number)

    def me(self) -> Said:
        """Returns the published state of this process."""
        said = said_in(self._own)
        assert said is not None, self._own
        return said

    def say_polled(self, began_at: float, pause_s: float) -> None:
        """Publishes the start of a poll, and the pause until the host's next one; the pause first."""
        self._own.set_clock(Clock.POLL_PAUSE_S, pause_s)
        self._own.set_clock(Clock.POLLED_AT, began_at)

    def say_asks(self, at: float) -> None:
        """Publishes the time at which this process polls or looks again, 0 for none; for people."""
        self._own.set_clock(Clock.ASKS_AT, at)

    def say_worked(self, at: float) -> None:
        """Publishes the time at which activities came, or an outcome was acknowledged."""
        self._own.set_clock(_WORKED_AT, at)

    def say_step(self, pause_s: float, at: float) -> None:
        """Publishes the pause between a receipt and the poll for what follows."""
        self._own.set_clock(Clock.STEP_S, pause_s)
        self._own.set_clock(Clock.LEARNED_AT, at)

    def wake(self, number: int) -> None:
        """Makes the process in this segment look again."""
        if self._wakeups is not None:
            self._wakeups.wake(number)


def said_in(segment: Segment) -> Said | None:
    """Returns the state in a segment; None when it belongs to no live process."""
    started, ended, opened, slots, load, pause_s, polled_at, worked_at, step_s, learned_at = _read_cells(
        segment.map, segment.offset
    )
    if started == ended or opened != started:
        return None
    if not 0.0 <= pause_s + polled_at + worked_at + step_s + learned_at < inf:
        return None  # the segment is corrupt: the supervisor ends that process
    return Said(segment.number, polled_at, pause_s, worked_at, load, slots, step_s, learned_at)
