"""The supervisor's own memory of what it has written into the segments of living processes; it ends nothing.

User code shares the map, and can scribble anywhere in it. So the cells that the supervisor writes are never what it
believes, and one that differs from its memory shows that somebody else has written there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowherd.ledger import Cell
from flowherd.ledger.damage_check import damage_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowherd.ledger import Segment
    from flowherd_supervisor.core.state import State
    from flowherd_supervisor.processes.process_table import Handle

_OWN = (Cell.STARTED, Cell.PROCESS, Cell.INCARNATION, Cell.PID, Cell.GUILTY)


class SegmentChecks:
    """The supervisor's cells of each segment in use."""

    def __init__(self) -> None:
        self._own: dict[int, Mapping[Cell, int]] = {}
        self._unread: dict[int, Mapping[int, bytes]] = {}

    def opened(self, handle: Handle) -> None:
        """A process exists, and its cells have just been written."""
        for segment in handle.segments:
            self._own[segment.number] = {cell: segment.get(cell) for cell in _OWN}
            self._unread[segment.number] = {}

    def blame(self, handle: Handle, guilty: int) -> None:
        """Writes down which record hung the process, 0 for none."""
        for segment in handle.segments:
            self._own[segment.number] = {**self._own.get(segment.number, {}), Cell.GUILTY: guilty}
            segment.put(Cell.GUILTY, guilty)

    def damage(self, handle: Handle, state: State) -> str:
        """The damage that no writer of ours can have done, empty for none; call it twice to find torn records."""
        is_open = _is_open(handle, state)
        return next((found for one in handle.segments if (found := self._damage(one, is_open=is_open))), "")

    def _damage(self, segment: Segment, *, is_open: bool) -> str:
        for cell, value in self._own.get(segment.number, {}).items():
            if segment.get(cell) != value:
                return f"the cell {cell.name} holds {segment.get(cell)} instead of {value}"
        if segment.get(Cell.ENDED) >= segment.get(Cell.STARTED):
            return f"the cell ENDED holds {segment.get(Cell.ENDED)}"
        if not is_open:
            return ""
        if not segment.readable:
            return f"the cell OPENED holds {segment.get(Cell.OPENED)}"
        found, self._unread[segment.number] = damage_in(segment, self._unread.get(segment.number, {}))
        return found

    def restore(self, handle: Handle, state: State) -> None:
        """Writes everything once more, after the end of whoever could write there, so that it can be settled."""
        is_open = _is_open(handle, state)
        for segment in handle.segments:
            own = self._own.pop(segment.number, None)
            self._unread.pop(segment.number, None)
            if own is None:
                continue
            for cell, value in own.items():
                segment.put(cell, value)
            segment.put(Cell.ENDED, own[Cell.STARTED] - 1)
            if is_open:
                segment.put(Cell.OPENED, own[Cell.STARTED])
                segment.put(Cell.HIGH_WATER, segment.capacity)


def _is_open(handle: Handle, state: State) -> bool:
    """True when the workers of a process have begun to write: they have once it was ready."""
    process = state.find(handle.index, handle.incarnation)
    return process is not None and process.ready_at is not None
