"""Finds stalled processes: a handler blocks the loop, or a signal has stopped them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowherd.ledger import Cell, Clock
from flowherd.procfs import stat_fields

if TYPE_CHECKING:
    from flowherd.ledger import Record, Segment

SHOWN_AFTER_S = 1.0  # the lag of a busy loop is measured every 0.25 s
_STOPPED = frozenset("Tt")  # by a signal; by a debugger


def standstill(segment: Segment, now: float) -> dict[str, Any] | None:
    """Returns the time for which a process has stalled, and the activity and line that block its loop.

    Returns:
        None while the loop runs or has no handlers. Name and line are empty if no handler is on the loop: then a thread
        holds the GIL, or the process is stopped.

    """
    for_s, is_stopped = _still_s(segment, now), _is_stopped(segment.get(Cell.PID))
    if for_s < SHOWN_AFTER_S and not is_stopped:
        return None
    if not for_s:
        for_s = now - max(map(segment.clock, (Clock.STARTED_AT, Clock.LAST_GOOD_POLL, Clock.LAST_BAD_POLL)))
    one = None if is_stopped else _on_loop(segment)
    return {
        "for_s": round(for_s, 1),
        "is_stopped": is_stopped,
        "name": one.name if one else "",
        "activity_id": one.activity_id if one else "",
        "key": one.key if one else "",
        "workflow_id": one.workflow_id if one else "",
        "at": segment.blocked_at if one else "",
    }


def loop_lag_s(segment: Segment, now: float) -> float:
    """Returns the smoothed lag of the loop, or the time since its last measurement if that is longer."""
    still_s = _still_s(segment, now)
    return max(segment.clock(Clock.LOOP_LAG_S), still_s if still_s >= SHOWN_AFTER_S else 0.0)


def _still_s(segment: Segment, now: float) -> float:
    """Seconds since the lag was measured, or since the first handler began if that is later; 0 without one."""
    begun_at = [record.started_at for record in segment.records() if record.is_at_work]
    if not begun_at:
        return 0.0
    return max(now - max(segment.clock(Clock.LOOP_READ_AT), min(begun_at)), 0.0)


def _on_loop(segment: Segment) -> Record | None:
    index = segment.get(Cell.ON_LOOP) - 1
    return segment.record(index) if 0 <= index < segment.capacity else None


def _is_stopped(pid: int) -> bool:
    return not _STOPPED.isdisjoint(stat_fields(pid)[:1])
