"""Detects corruption of a segment by user code: values that flowherd cannot have written."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from flowherd.ledger.record import RECORD_BYTES
from flowherd.ledger.states_and_cells import LATEST_S, PLAUSIBLE, Cell, Clock, is_record_byte

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flowherd.ledger.segment import Segment

_COUNTERS = tuple(cell for cell in Cell if cell > Cell.OPENED and cell is not Cell.WAITS_FOR)
_STATES = bytes(byte for byte in range(256) if is_record_byte(byte))
_INDICES = (Cell.HIGH_WATER, Cell.ON_LOOP, Cell.RUNNING)


def damage_in(segment: Segment, unread_before: Mapping[int, bytes]) -> tuple[str, Mapping[int, bytes]]:
    """Returns the first damage found in a worker's part, "" for none, and the records that could not be read.

    Args:
        segment: an open segment.
        unread_before: the unreadable records of the previous check. A record is torn for a moment while it is written;
            one that is unchanged at the next check and still unreadable is damaged.

    """
    found = _in_cells(segment)
    if found:
        return found, {}
    states = bytes(segment.states)
    if wrong := states.translate(None, _STATES):
        return f"record {states.index(wrong[0])} is in state {wrong[0]}", {}
    unread = {}
    high_water = segment.get(Cell.HIGH_WATER)
    for index in _taken(states):
        if index >= high_water or segment.record(index) is None:
            start = segment.offset + segment.layout.bodies + index * RECORD_BYTES
            unread[index] = segment.map[start : start + RECORD_BYTES]
            if unread_before.get(index) == unread[index]:
                return f"record {index} cannot be read, the mark is at {high_water}", {}
    return "", unread


def unread_in(segment: Segment) -> int:
    """Returns the number of records of an ended incarnation that cannot be read."""
    if not segment.readable:
        return 0
    return sum(segment.record(index) is None for index in _taken(bytes(segment.states)))


def _taken(states: bytes) -> Iterable[int]:
    """The indices of records that are not free; in an idle segment Python need not look at each byte."""
    return [index for index, state in enumerate(states) if state] if any(states) else ()


def _in_cells(segment: Segment) -> str:
    for cell in _INDICES:
        if segment.get(cell) > segment.capacity:
            return f"the cell {cell.name} holds {segment.get(cell)}"
    for cell in _COUNTERS:
        if segment.get(cell) > PLAUSIBLE:
            return f"the cell {cell.name} holds {segment.get(cell)}"
    for clock in Clock:
        if not isfinite(segment.clock(clock)) or abs(segment.clock(clock)) > LATEST_S:
            return f"the cell {clock.name} holds {segment.clock(clock)}"
    return ""
