"""What runs in each process now, and whose handlers keep their loops, out of the ledger; it changes nothing there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flowherd.ledger import Cell, Handler, Ledger, Life

if TYPE_CHECKING:
    from flowherd.ledger import Segment
    from flowherd_supervisor.keeper.events import EventLog

NOT_BEGUN_S = 30.0  # the worker's log names it then, with the reason
MOST_SHOWN = 8  # of one process: who has hundreds of slots looks for the oldest


def running_in(segment: Segment, now: float) -> list[dict[str, Any]]:
    """The activities whose handlers have run longest, the oldest first."""
    running = (record for record in segment.records() if record.is_at_work and record.is_held)
    oldest = sorted(running, key=lambda record: record.started_at)[:MOST_SHOWN]
    return [
        {
            "name": record.name,
            "activity_id": record.activity_id,
            "for_s": round(now - record.started_at, 1),
            "limit_s": record.limit_s,
        }
        for record in oldest
    ]


def not_begun_in(segment: Segment, now: float) -> list[dict[str, Any]]:
    """The activities that were claimed long ago and have not begun, the oldest first."""
    waiting = (
        record
        for record in segment.records()
        if record.is_held and record.handler <= Handler.ADMITTED and now - record.claimed_at >= NOT_BEGUN_S
    )
    oldest = sorted(waiting, key=lambda record: record.claimed_at)[:MOST_SHOWN]
    return [
        {
            "name": record.name,
            "activity_id": record.activity_id,
            "for_s": round(now - record.claimed_at, 1),
            "waits_for": "a slot"
            if record.handler is Handler.WAITING
            else "a permit, an isolate or the loop",
        }
        for record in oldest
    ]


class BlockWatch:
    """Finds handlers that have kept a loop since the last look, and makes events of them.

    The workers say so in their logs; only the ledger says it to this process.
    """

    def __init__(self, ledger: Ledger, events: EventLog) -> None:
        self._ledger = ledger
        self._events = events
        self._seen = self._counts()

    def look(self) -> None:
        """Adds an event for each process with new blocks, with the newest line."""
        counts = self._counts()
        for (number, life), blocks in counts.items():
            new = blocks - self._seen.get((number, life), 0)
            if new > 0:
                segment = self._ledger.segments[number]
                fields = {"process": segment.get(Cell.PROCESS), "place": segment.blocked_at, "times": new}
                self._events.add(time.time(), "warning", "loop_blocked", fields)
        self._seen = counts

    def _counts(self) -> dict[tuple[int, int], int]:
        """By segment and by which of its lives, so that a new process begins at 0."""
        return {
            (segment.number, segment.get(Cell.STARTED)): segment.get(Cell.BLOCKS)
            for segment in self._ledger.segments
            if segment.life is Life.LIVE and segment.readable
        }
