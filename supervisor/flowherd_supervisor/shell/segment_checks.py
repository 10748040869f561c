"""Detects damage in segments by comparing them with the supervisor's private copy of the cells it wrote.

User code shares the map and can overwrite any part of it. The supervisor therefore never trusts the cells it writes,
and a cell that differs from its copy was overwritten.
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
    """Private copies of the supervisor's cells of each segment in use."""

    def __init__(self) -> None:
        self._own: dict[int, Mapping[Cell, int]] = {}
        self._unread: dict[int, Mapping[int, bytes]] = {}

    def opened(self, handle: Handle) -> None:
        """Copies the cells of a new process, which have just been written."""
        for segment in handle.segments:
            self._own[segment.number] = {cell: segment.get(cell) for cell in _OWN}
            self._unread[segment.number] = {}

    def blame(self, handle: Handle, guilty: int) -> None:
        """Stores the sequence of the record that hung the process, 0 for none."""
        for segment in handle.segments:
            self._own[segment.number] = {**self._own.get(segment.number, {}), Cell.GUILTY: guilty}
            segment.put(Cell.GUILTY, guilty)

    def damage(self, handle: Handle, state: State) -> str:
        """Describes damage that no flowherd code can have done, "" for none; torn records show in the second call."""
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
        """Restores the cells after the end of the process, so that the keeper can settle its records."""
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
    """True once the process was ready: its workers have begun to write then."""
    process = state.find(handle.index, handle.incarnation)
    return process is not None and process.ready_at is not None
