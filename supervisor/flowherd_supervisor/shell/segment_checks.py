"""What the supervisor has written into the segments of living processes, from its own memory; it ends nothing.

User code shares the map, and can scribble anywhere in it. So the cells that the supervisor writes are never what it
believes, and one that differs from its memory shows that somebody else has written there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowherd.ledger import Cell
from flowherd.ledger.damage import damage_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowherd.ledger import Berth
    from flowherd_supervisor.core.state import State
    from flowherd_supervisor.processes.table import Handle

_OWN = (Cell.STARTED, Cell.SEAT, Cell.INCARNATION, Cell.PID, Cell.GUILTY)


class Segments:
    """The supervisor's cells of each segment in use."""

    def __init__(self) -> None:
        self._own: dict[int, Mapping[Cell, int]] = {}
        self._unread: dict[int, Mapping[int, bytes]] = {}

    def opened(self, handle: Handle) -> None:
        """A process exists, and its cells have just been written."""
        for berth in handle.berths:
            self._own[berth.number] = {cell: berth.get(cell) for cell in _OWN}
            self._unread[berth.number] = {}

    def blame(self, handle: Handle, guilty: int) -> None:
        """Writes down which record hung the process, 0 for none."""
        for berth in handle.berths:
            self._own[berth.number] = {**self._own.get(berth.number, {}), Cell.GUILTY: guilty}
            berth.put(Cell.GUILTY, guilty)

    def damage(self, handle: Handle, state: State) -> str:
        """What no writer of ours can have written there, empty for nothing; call it twice to find torn records."""
        is_open = _is_open(handle, state)
        return next((found for one in handle.berths if (found := self._damage(one, is_open=is_open))), "")

    def _damage(self, berth: Berth, *, is_open: bool) -> str:
        for cell, value in self._own.get(berth.number, {}).items():
            if berth.get(cell) != value:
                return f"the cell {cell.name} holds {berth.get(cell)} instead of {value}"
        if berth.get(Cell.ENDED) >= berth.get(Cell.STARTED):
            return f"the cell ENDED holds {berth.get(Cell.ENDED)}"
        if not is_open:
            return ""
        if not berth.readable:
            return f"the cell OPENED holds {berth.get(Cell.OPENED)}"
        found, self._unread[berth.number] = damage_in(berth, self._unread.get(berth.number, {}))
        return found

    def restore(self, handle: Handle, state: State) -> None:
        """Writes everything once more, after the end of whoever could write there, so that it can be settled."""
        is_open = _is_open(handle, state)
        for berth in handle.berths:
            own = self._own.pop(berth.number, None)
            self._unread.pop(berth.number, None)
            if own is None:
                continue
            for cell, value in own.items():
                berth.put(cell, value)
            berth.put(Cell.ENDED, own[Cell.STARTED] - 1)
            if is_open:
                berth.put(Cell.OPENED, own[Cell.STARTED])
                berth.put(Cell.HIGH_WATER, berth.capacity)


def _is_open(handle: Handle, state: State) -> bool:
    """Whether the workers of a process have begun to write: they have once it was ready."""
    seat = state.find(handle.seat, handle.incarnation)
    return seat is not None and seat.ready_at is not None
